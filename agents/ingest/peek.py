"""Read the conversations of one log file without adding them to the ledger.

Invariant: nothing is written, neither to the ledger nor elsewhere. Files are parsed as in an ingest, so the
conversations returned are those that an ingest would add.
"""

from collections.abc import Collection
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from agents.ingest.files import Record, open_log, parse, records, unreadable
from corpus.conversation import Conversation
from corpus.errors import LogRefused
from corpus.formats.detect import detect, reader
from corpus.lines import MAX_ARRAY, RawLine
from corpus.scrub.patterns import scrub_conversation
from store.conversations.conversations import tombstones


def conversations_in(path: Path) -> list[Conversation]:
    """Return the conversations of a file, without secrets, in the order in which they begin.

    A conversation that is spread over several records is joined into one. A file without a conversation
    raises `LogRefused` with the reason.
    """
    lines = _all_records(path)
    format = detect(lines)
    if not isinstance(format, str):
        raise LogRefused(f"{path} holds no conversation ({format.reason if format else 'no whole line'})")
    read = reader(format)
    joined: dict[str, Conversation] = {}
    for line in lines:
        part = parse(line, read)
        if isinstance(part, Conversation) and part.turns:
            key = part.key or f"\0{len(joined)}"
            earlier = joined[key].turns if key in joined else ()
            joined[key] = replace(part, turns=(*earlier, *part.turns))
    if not joined:
        raise LogRefused(f"{path} holds no conversation that can be read as {format}")
    return [scrub_conversation(conversation) for conversation in joined.values()]


def lines_with(path: Path, format: str, wanted: Collection[str]) -> list[int]:
    """Return the numbers of the lines that an ingest skips once some conversations are forgotten.

    Args:
        path: The log file. One that cannot be read raises `LogRefused`.
        format: Name of the file's format.
        wanted: Tombstones of these conversations. A line is returned if its conversation has one of them.
    """
    read, wanted, numbers = reader(format), frozenset(wanted), list[int]()
    try:
        log = open_log(path)
        with log.stream:
            for line in records(log):
                part = parse(line, read)
                if not isinstance(line, RawLine) or not isinstance(part, Conversation) or not part.turns:
                    continue
                if not wanted.isdisjoint(tombstones(part)):
                    numbers.append(line.number)
    except OSError as error:
        raise LogRefused(unreadable(error)) from None
    return numbers


def _all_records(path: Path) -> list[Record]:
    """Return the records of a file, including a last line without a newline.

    An ingest would wait for the rest of such a line; a preview reads the file only once.
    """
    try:
        log = open_log(path)
        with log.stream:
            data = log.stream.read(MAX_ARRAY)
    except LogRefused as refused:
        raise LogRefused(f"{path}: {refused}") from None
    except OSError as error:
        raise LogRefused(f"{path} {unreadable(error)}") from error
    if len(data) == MAX_ARRAY:
        raise LogRefused(f"{path} has {MAX_ARRAY // 2**20} MiB or more: take it in with `nightschool ingest`")
    return list(records(replace(log, stream=BytesIO(data + b"\n"), size=len(data) + 1)))
