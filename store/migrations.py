"""Numbered migrations: the ledger is brought up to this version's schema when it is opened.

Invariant: a migration, once released, is never edited; a new one is appended. A ledger from a newer
version is refused rather than guessed at.
"""

from collections.abc import Callable

from sqlalchemy import Connection, Engine, inspect, select

from corpus.errors import IntegrityFault
from store.schema import meta, metadata


def _first_schema(connection: Connection) -> None:
    metadata.create_all(connection)


MIGRATIONS: tuple[Callable[[Connection], None], ...] = (_first_schema,)


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
