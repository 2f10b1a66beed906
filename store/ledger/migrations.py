"""Numbered migrations: the ledger is brought up to this version's schema when it is opened.

Invariant: a migration, once released, is never edited; a new one is appended, and finds in a new ledger, which
`_first_schema` makes as the schema is today, that nothing is left to do. A ledger from a newer version is refused
rather than guessed at.
"""

from collections.abc import Callable

from sqlalchemy import Connection, Engine, inspect, select

from corpus.errors import IntegrityFault
from store.ledger.schema import meta, metadata
from store.ledger.schema_readings import READ, predictions, sweeps


def _first_schema(connection: Connection) -> None:
    metadata.create_all(connection)


def _references_have_a_version(connection: Connection) -> None:
    """`pairs.reference_id`; what was pinned without a version is computed anew when it is needed."""
    if "reference_id" not in {column["name"] for column in inspect(connection).get_columns("pairs")}:
        connection.exec_driver_sql("ALTER TABLE pairs ADD COLUMN reference_id VARCHAR")


def _checkpoints_can_be_pruned(connection: Connection) -> None:
    """`checkpoints.pinned` and `checkpoints.pruned`; the table of what was forgotten."""
    metadata.tables["forgotten"].create(connection, checkfirst=True)
    known = {column["name"] for column in inspect(connection).get_columns("checkpoints")}
    if "pinned" not in known:
        connection.exec_driver_sql("ALTER TABLE checkpoints ADD COLUMN pinned BOOLEAN DEFAULT false NOT NULL")
        connection.exec_driver_sql("ALTER TABLE checkpoints ADD COLUMN pruned VARCHAR")


def _readings_name_their_vectors(connection: Connection) -> None:
    """`readings.vectors`, a part of the key; those that nobody noted are "", and their concepts are read again."""
    if "vectors" in {column["name"] for column in inspect(connection).get_columns("readings")}:
        return
    rows = (
        connection.exec_driver_sql("SELECT weights_sha256, name, mean, spread FROM readings").mappings().all()
    )
    connection.exec_driver_sql("DROP TABLE readings")  # no database changes a key in the same words
    metadata.tables["readings"].create(connection)
    if rows:
        connection.execute(metadata.tables["readings"].insert(), [{**row, "vectors": ""} for row in rows])


def _pairs_can_be_unlearnt(connection: Connection) -> None:
    """`update_pairs.unlearnt`."""
    if "unlearnt" not in {column["name"] for column in inspect(connection).get_columns("update_pairs")}:
        connection.exec_driver_sql(
            "ALTER TABLE update_pairs ADD COLUMN unlearnt BOOLEAN DEFAULT false NOT NULL"
        )


def _sweeps_are_kept(connection: Connection) -> None:
    """`sweeps` and `predictions`."""
    for table in (sweeps, predictions):
        table.create(connection, checkfirst=True)


def _what_was_read_is_kept(connection: Connection) -> None:
    """The tables of `schema_readings`."""
    for table in READ:
        table.create(connection, checkfirst=True)


MIGRATIONS: tuple[Callable[[Connection], None], ...] = (
    _first_schema,
    _references_have_a_version,
    _checkpoints_can_be_pruned,
    _readings_name_their_vectors,
    _pairs_can_be_unlearnt,
    _sweeps_are_kept,
    _what_was_read_is_kept,
)


def migrate(engine: Engine) -> None:
    """Run the migrations that this ledger has not seen, each with its number, in one transaction."""
    with engine.connect() as connection:
        connection.info["readonly"] = True
        if _version(connection) == len(MIGRATIONS):
            return
    with engine.begin() as connection:
        version = _version(connection)
        if version > len(MIGRATIONS):
            raise IntegrityFault(
                f"this ledger has schema {version}, this Nightschool knows {len(MIGRATIONS)}: "
                "install the newer version that wrote it"
            )
        for migration in MIGRATIONS[version:]:
            migration(connection)
        connection.execute(meta.delete().where(meta.c.key == "schema"))
        connection.execute(meta.insert().values(key="schema", value=str(len(MIGRATIONS))))


def _version(connection: Connection) -> int:
    """Number of the last migration that ran; 0 for an empty database."""
    if not inspect(connection).has_table("meta"):
        return 0
    row = connection.execute(select(meta.c.value).where(meta.c.key == "schema")).first()
    return int(row[0]) if row else 0
