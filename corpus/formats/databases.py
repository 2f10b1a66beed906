"""Which tables of which programs' databases hold conversations; a row is a record like a line of a file.

Invariant: a table is known by its name and by columns that it has, so a database of another program is never
taken for one of these. Pure: who opens the database is `agents/ingest/database.py`.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table that holds conversations."""

    name: str
    needs: tuple[str, ...]
    """The columns by which it is known."""
    more: tuple[str, ...] = ()
    """Other columns that are read where the table has them."""
    where: str = ""
    """Condition on the rows, in SQL; "" for all."""


TABLES = (
    Table(name="chat", needs=("id", "user_id", "chat"), more=("title", "created_at", "updated_at")),
    Table(name="feedback", needs=("id", "user_id", "type", "data", "meta", "snapshot")),
    Table(
        name="responses",
        needs=("id", "model", "prompt", "response", "datetime_utc"),
        more=("system", "conversation_id"),
    ),
    Table(name="session", needs=("id", "project_id", "directory"), more=("parent_id", "revert")),
    Table(name="message", needs=("id", "session_id", "data"), more=("time_created",)),
    Table(name="part", needs=("id", "message_id", "session_id", "data"), more=("time_created",)),
    Table(
        name="cursorDiskKV",
        needs=("key", "value"),
        where="key GLOB 'composerData:*' OR key GLOB 'bubbleId:*'",
    ),
)
"""Of Open WebUI, `llm`, OpenCode and Cursor."""


def known(tables: Mapping[str, Collection[str]]) -> Iterator[tuple[Table, list[str]]]:
    """Yield the tables of a database that hold conversations, each with the columns to read.

    Args:
        tables: The columns of each table of the database.
    """
    for table in TABLES:
        columns = tables.get(table.name, ())
        if all(column in columns for column in table.needs):
            yield table, [column for column in (*table.needs, *table.more) if column in columns]


def query_of(table: Table, columns: list[str]) -> str:
    """Return the SQL that reads these columns of a table, in the order in which the rows were written."""
    named = ", ".join(f'"{column}"' for column in columns)
    where = f" WHERE {table.where}" if table.where else ""
    return f'SELECT {named} FROM "{table.name}"{where} ORDER BY rowid'
