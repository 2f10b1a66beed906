"""Read log files without adding them to the home's ledger.

Invariant: nothing is written to the disk. A preview reads files by the same code as an ingest, into a ledger
in memory, so it shows what an ingest would store.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import Connection, select

from agents.ingest.files import logs_at
from agents.ingest.read import DEFAULTS, Options, read_log, skipped_at
from agents.ingest.records import Parser, detected
from agents.ingest.report import IngestReport, merged
from agents.ingest.sources import opened, unreadable
from corpus.conversation import Conversation, Turn
from corpus.errors import LogRefused
from corpus.formats.detect import named
from corpus.formats.format import Part
from corpus.lines import BadLine
from corpus.scrub.patterns import Clean, scrub, scrub_conversation
from store.conversations.conversations import tombstones
from store.conversations.rows import turn_of
from store.ledger import schema
from store.ledger.db import Ledger
from store.ledger.records import StoredTurn
from store.ledger.rows import all_of


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What an ingest of some files would store."""

    report: IngestReport
    conversations: tuple[tuple[str, Conversation], ...]
    """Each conversation with the path of its file, in the order in which they begin."""


def preview(paths: Sequence[Path], options: Options = DEFAULTS) -> Preview:
    """Return what an ingest of these files and folders would store in an empty ledger."""
    files = dict.fromkeys(file for path in paths for file in logs_at(path))
    ledger = Ledger("sqlite://")
    try:
        reports = [report for file in files for report in read_log(ledger, file, options)]
        with ledger.reading() as connection:
            stored = tuple(_stored(connection))
    finally:
        ledger.close()
    return Preview(report=merged([*reports, *map(skipped_at, dict.fromkeys(paths))]), conversations=stored)


def conversations_in(path: Path) -> list[Conversation]:
    """Return the conversations of a file, without secrets, in the order in which they begin.

    Two records that continue one another are two conversations; an ingest would add one. A conversation
    that is spread over several records by its key is joined. A file without a conversation raises
    `LogRefused` with the reason.
    """
    joined: dict[str, Conversation] = {}
    faults: list[str] = []
    try:
        for part in _parts(path):
            if isinstance(part, BadLine):
                faults.append(part.reason)
            elif part.turns:
                key = part.key or f"\0{len(joined)}"
                earlier = joined[key].turns if key in joined else ()
                joined[key] = replace(part, turns=(*earlier, *part.turns))
    except LogRefused as refused:
        raise LogRefused(f"{path}: {refused}") from None
    except OSError as error:
        raise LogRefused(f"{path} {unreadable(error)}") from None
    if not joined:
        raise LogRefused(f"{path} holds no conversation ({faults[0] if faults else 'it is empty'})")
    return [scrub_conversation(conversation) for conversation in joined.values()]


def _parts(path: Path) -> Iterator[Part]:
    """Yield the conversations and the faults in a file, or in each log of an archive."""
    for log in opened(path):
        with closing(log.stream):
            if format := detected(log, None):
                for read in Parser(log=log, format=format).whole():
                    yield from read.parts


def _stored(connection: Connection) -> Iterator[tuple[str, Conversation]]:
    """Yield each conversation of a ledger with the path of its file, in the order in which they begin."""
    table, turns = schema.conversations, schema.turns
    spoken: dict[str, list[Turn]] = {}
    for turn in all_of(connection, StoredTurn, select(turns).order_by(turns.c.id)):
        spoken.setdefault(turn.conversation_id, []).append(turn_of(turn))
    rows = {row.id: row for row in connection.execute(select(table))}
    for conversation_id, its_turns in spoken.items():
        row = rows[conversation_id]
        yield (
            row.path,
            Conversation(
                source=row.source, format=row.format, turns=tuple(its_turns), key=row.key, copied=row.copied
            ),
        )


def lines_with(path: Path, format: str, wanted: Collection[str], clean: Clean = scrub) -> list[int]:
    """Return the numbers of the lines that an ingest skips once some conversations are forgotten.

    Args:
        path: The log file. One that cannot be read raises `LogRefused`.
        format: Name of the file's format.
        wanted: Tombstones of these conversations. A line is returned if its conversation has one of them.
        clean: Removes from a text what the home does not store.
    """
    wanted, numbers = frozenset(wanted), set[int]()
    try:
        for log in opened(path):
            with closing(log.stream):
                for read in Parser(log=log, format=named(format)).whole():
                    for part in read.parts:
                        if isinstance(part, Conversation) and not wanted.isdisjoint(tombstones(part, clean)):
                            numbers.update(turn.line for turn in part.turns)
    except OSError as error:
        raise LogRefused(unreadable(error)) from None
    return sorted(numbers)
