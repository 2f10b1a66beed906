"""Log files in the ledger: how far each has been read, and what could not be read in it.

Invariant: a path is stored without secrets. This module opens no file.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, select

from corpus.scrub.patterns import scrub
from store.ledger import schema
from store.ledger.db import now
from store.ledger.rows import first_of


@dataclass(frozen=True, kw_only=True)
class FileState:
    """How far a log file has been read."""

    path: str
    """The path without secrets: see `corpus.scrub.patterns.scrub_name`."""
    format: str
    """Name of the log format."""
    identity: str
    """Identity of the file; it changes when another file takes the same name."""
    offset: int
    """Number of bytes that were read; it is always just after a newline."""
    line: int
    """Number of lines that were read."""


def file_state(connection: Connection, path: str) -> FileState | None:
    """Return how far a file has been read; None for a file that was never read."""
    return first_of(connection, FileState, select(schema.files).where(schema.files.c.path == path))


def formats_of(connection: Connection) -> dict[str, str]:
    """Return the name of the format of every file that was ever read, by path."""
    table = schema.files
    rows = connection.execute(
        select(table.c.path, table.c.format).where(table.c.format != "").order_by(table.c.path)
    )
    return {path: format for path, format in rows}


def save_file_state(connection: Connection, state: FileState) -> None:
    """Save how far a file has been read; call it in the transaction that saves the file's turns."""
    table = schema.files
    values = {"format": state.format, "identity": state.identity, "offset": state.offset, "line": state.line}
    if connection.execute(table.update().where(table.c.path == state.path).values(**values)).rowcount == 0:
        connection.execute(table.insert().values(path=state.path, **values))


def set_aside_line(connection: Connection, path: str, line: int, reason: str) -> bool:
    """Quarantine a line with the reason; return whether it was not quarantined for this reason before.

    Args:
        connection: The ledger, in a transaction that writes.
        path: Path of the log.
        line: Number of the line from 1; 0 for the whole file.
        reason: Why the line cannot be used; secrets are removed from it here.
    """
    table, reason = schema.set_aside_lines, scrub(reason)
    place = (table.c.path == path) & (table.c.line == line)
    if connection.execute(select(table.c.reason).where(place)).scalar() == reason:
        return False
    connection.execute(table.delete().where(place))
    connection.execute(table.insert().values(path=path, line=line, reason=reason, at=now()))
    return True


def forget_set_aside(connection: Connection, path: str) -> None:
    """Delete the quarantined lines of a file, which is about to be read from its beginning."""
    table = schema.set_aside_lines
    connection.execute(table.delete().where(table.c.path == path))


def ids_of_path(connection: Connection, path: str) -> set[str]:
    """Return the ids of the conversations that were first read from this file."""
    table = schema.conversations
    return set(connection.execute(select(table.c.id).where(table.c.path == path)).scalars())
