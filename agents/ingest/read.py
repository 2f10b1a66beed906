"""Read what is new in log files into the ledger, a batch at a time.

Invariant: a batch's conversations, its quarantined lines and the file offset after the batch are committed in
one transaction. So reading resumes after the last batch when the process has died, and no turn is lost or
repeated. Only complete lines are read. A bad line or file becomes an entry of the report, not an exception.
This module does not know how the turns are used.
"""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio.to_thread

from agents.ingest.files import (
    OpenLog,
    Record,
    digest,
    logs_at,
    open_log,
    parse,
    read_array,
    records,
    stored_path,
    unreadable,
)
from agents.ingest.report import FileRead, IngestReport, QuarantinedLine, merged
from corpus.conversation import Conversation
from corpus.errors import LogRefused
from corpus.formats.detect import NAMES, Reader, detect, reader
from corpus.lines import BadLine, RawLine, array_items, is_array, whole_lines
from corpus.scrub.patterns import scrub
from store.conversations import conversations
from store.conversations.conversations import FileState
from store.ledger.db import Ledger
from store.queue.outcome import note

BATCH_LINES = 200
"""Largest number of lines in one transaction: few enough for a short transaction, many enough that the time
for the disk's sync does not matter."""

BATCH_BYTES = 4 * 2**20
"""Bytes after which a transaction takes no further line. This bounds its memory and its time."""

MOST_BAD = 1000
"""A file is quarantined when more than this many lines, and more than half of the lines read, are bad: then
the format must be wrong."""


@dataclass(kw_only=True)
class _Batch:
    """The content of the next transaction, and how much of the file it covers."""

    conversations: list[Conversation] = field(default_factory=list)
    bad: list[BadLine] = field(default_factory=list)
    lines: int = 0
    """Number of records parsed, good or bad."""
    size: int = 0
    """Bytes of these records."""
    last: RawLine | None = None
    """The last raw line; the next batch starts after it."""

    def add(self, record: Record, read: Reader) -> None:
        """Parse one record with the reader of its format, and add the result to the batch."""
        self.lines += 1
        if isinstance(record, RawLine):
            self.last = record
            self.size += len(record.data or b"")
        parsed = parse(record, read)
        if isinstance(parsed, BadLine):
            self.bad.append(parsed)
        elif parsed is not None:
            self.conversations.append(parsed)


async def ingest_paths(ledger: Ledger, paths: Iterable[Path], format: str | None = None) -> IngestReport:
    """Read all logs at these paths into the ledger, and return one report of them all.

    Args:
        ledger: The ledger that the turns are added to.
        paths: Files, and folders whose logs are all read.
        format: Name of the format of every file; None to detect each file's format.

    Raises:
        UsageError: A path cannot be read or the format is unknown. Nothing has been read then.
    """
    if format is not None:
        reader(format)
    files = [file for path in paths for file in await anyio.to_thread.run_sync(logs_at, path)]
    reports = []
    for file in dict.fromkeys(files):
        before = await ledger.read(conversations.ids_of_path, stored_path(file))
        report = await in_threads(read_log(ledger, file, format))
        reports.append(replace(report, known=report.known + len(before - report.ids)))
    return merged(reports)


async def in_threads(batches: Generator[IngestReport, None, None]) -> IngestReport:
    """Read the batches of a file in a thread, one after the other, and return their merged report.

    A cancellation waits only for the batch that is being read.
    """
    reports: list[IngestReport] = []
    try:
        while (report := await anyio.to_thread.run_sync(next, batches, None)) is not None:
            reports.append(report)
    finally:
        batches.close()
    return merged(reports)


def read_log(ledger: Ledger, path: Path, format: str | None = None) -> Generator[IngestReport, None, None]:
    """Read what is new in one file, and yield a report after each committed batch.

    A file that cannot be read is quarantined, and a report says so. If `format` is None, it is detected.
    """
    try:
        log = open_log(path)
        with log.stream:
            yield from (_array(ledger, log, format) if is_array(log.head) else _lines(ledger, log, format))
    except LogRefused as refused:
        yield quarantine_file(ledger, stored_path(path), str(refused))
    except OSError as error:
        yield quarantine_file(ledger, stored_path(path), unreadable(error))


def quarantine_file(ledger: Ledger, path: str, reason: str) -> IngestReport:
    """Quarantine a whole file and return a report that says so.

    The ledger records the event only once for each file and reason.
    """
    with ledger.writing() as connection:
        if conversations.set_aside_line(connection, path, 0, reason):
            note(connection, "log_set_aside", path, {"reason": scrub(reason)})
    line = QuarantinedLine(path=path, line=0, reason=scrub(reason))
    return IngestReport(files=(FileRead(path=path, format=None),), quarantined=(line,))


def _lines(ledger: Ledger, log: OpenLog, format: str | None) -> Iterator[IngestReport]:
    """Read a file with one record a line, from the stored offset to its last newline.

    Yields:
        A report for each batch, then one that names the file.
    """
    state = _resumed(ledger, log, format)
    name = format or state.format or _detected(log, records(log))
    if name is not None:
        state = replace(state, format=name)
        lines = whole_lines(log.stream, until=log.size, offset=state.offset, number=state.line)
        for reached, report in _batches(ledger, log.path, lines, state):
            state = reached
            yield report
    yield IngestReport(
        files=(FileRead(path=log.path, format=name),),
        waiting=(log.path,) if state.offset < log.size else (),
    )


def _array(ledger: Ledger, log: OpenLog, format: str | None) -> Iterator[IngestReport]:
    """Read a file that is one JSON array: the whole array, and again from its beginning if it has changed.

    Yields:
        A report for each batch, then one that names the file.
    """
    data = read_array(log)
    identity = f"{log.inode}:array:{digest(data)}"
    with ledger.reading() as connection:
        state = conversations.file_state(connection, log.path)
    name = format or _detected(log, array_items(data))
    files = (FileRead(path=log.path, format=name),)
    if name is not None and (state is None or (state.identity, state.format) != (identity, name)):
        if state is not None:
            _restart(ledger, replace(state, offset=0, line=0), "rewritten")
        start = FileState(path=log.path, format=name, identity=identity, offset=0, line=0)
        end = replace(start, offset=log.size)
        for _, report in _batches(ledger, log.path, array_items(data), start, end=end):
            yield report
    yield IngestReport(files=files)


def _batches(
    ledger: Ledger, path: str, lines: Iterator[Record], state: FileState, *, end: FileState | None = None
) -> Iterator[tuple[FileState, IngestReport]]:
    """Parse and commit the records in batches; yield the file's state and a report after each batch.

    Args:
        ledger: The ledger to commit to.
        path: The stored path of the file.
        lines: The records that are not read yet.
        state: The file's state before these records.
        end: For a JSON array, the state to store with the last batch; nothing is stored with the others. None
            for a file of lines, whose state is stored with every batch.
    """
    read = reader(state.format)
    seen: set[str] = set()
    bad_count = line_count = 0
    more = True
    while more:
        batch = _Batch()
        for record in lines:
            batch.add(record, read)
            if batch.lines >= BATCH_LINES or batch.size >= BATCH_BYTES:
                break
        else:
            more = False
        bad_count, line_count = bad_count + len(batch.bad), line_count + batch.lines
        first = state.line == 0
        if batch.last is not None:
            state = replace(state, offset=batch.last.end, line=batch.last.number)
        if batch.lines or end is not None:
            final = state if end is None else None if more else replace(end, line=state.line)
            yield state, _commit(ledger, path, batch, final, seen, first=first)
        if bad_count > MOST_BAD and 2 * bad_count > line_count:
            raise LogRefused(f"{bad_count:,} of {line_count:,} lines are not {state.format}: see --format")


def _commit(
    ledger: Ledger, path: str, batch: _Batch, state: FileState | None, seen: set[str], *, first: bool
) -> IngestReport:
    """Commit a batch and return its report.

    Args:
        ledger: The ledger to commit to.
        path: The stored path of the file.
        batch: The batch.
        state: The file's state to store with the batch; None to store none.
        seen: Ids of the conversations in earlier batches of this file, which are not counted as known again.
            The batch's own ids are added to the set.
        first: Whether the batch begins with the first line of the file. If so, the file's quarantined lines
        of
            an earlier reading are removed.
    """
    new = known = turns = forgotten = 0
    ids: set[str] = set()
    with ledger.writing() as connection:
        if first:
            conversations.forget_set_aside(connection, path)
        for conversation in _joined(batch.conversations):
            added = conversations.add(connection, conversation, path)
            if added.forgotten:
                forgotten += 1
                continue
            again = bool(conversation.key) and added.conversation_id in seen
            new, known = new + (not added.known), known + (added.known and not again)
            turns += added.new_turns
            ids.add(added.conversation_id)
        for bad in batch.bad:
            conversations.set_aside_line(connection, path, bad.line, bad.reason)
        if batch.bad:
            note(connection, "lines_set_aside", path, {"lines": len(batch.bad), "first": batch.bad[0].line})
        if state is not None:
            conversations.save_file_state(connection, state)
    seen |= ids
    return IngestReport(
        new=new,
        known=known,
        turns=turns,
        forgotten=forgotten,
        quarantined=tuple(
            QuarantinedLine(path=path, line=bad.line, reason=scrub(bad.reason)) for bad in batch.bad
        ),
        ids=frozenset(ids),
    )


def _joined(parsed: list[Conversation]) -> Iterator[Conversation]:
    """Yield the conversations of a batch, with the parts that have the same key joined into one.

    The joined conversation becomes one piece of work; the single parts would become hundreds.
    """
    parts: dict[str, list[Conversation]] = {}
    for conversation in parsed:
        if conversation.key:
            parts.setdefault(conversation.key, []).append(conversation)
        else:
            yield conversation
    for same in parts.values():
        yield replace(same[0], turns=tuple(turn for part in same for turn in part.turns))


def _resumed(ledger: Ledger, log: OpenLog, format: str | None) -> FileState:
    """Return the state from which to read on: the stored state, or a state at the file's beginning.

    Reading starts at the beginning if the file is new, was replaced or rewritten, or gets another format.
    """
    with ledger.reading() as connection:
        state = conversations.file_state(connection, log.path)
    fresh = FileState(path=log.path, format="", identity=log.identity, offset=0, line=0)
    if state is None or state.offset == 0:
        return fresh
    reason = _restart_reason(state, log, format)
    if not reason:
        return state
    _restart(ledger, fresh, reason)
    return fresh


def _restart_reason(state: FileState, log: OpenLog, format: str | None) -> str:
    """Return why a file must be read from its beginning; "" if it only grew."""
    if log.size < state.offset:
        return "truncated"
    if state.identity != log.identity:
        return "rotated"
    log.stream.seek(state.offset - 1)
    if log.stream.read(1) != b"\n":
        return "rewritten"
    return "another format was asked for" if format not in (None, state.format) else ""


def _restart(ledger: Ledger, fresh: FileState, reason: str) -> None:
    """Record that a file is read from its beginning again, and why; `fresh` is the state to store."""
    with ledger.writing() as connection:
        note(connection, "log_begun_again", fresh.path, {"why": reason})
        conversations.save_file_state(connection, fresh)


def _detected(log: OpenLog, lines: Iterator[Record]) -> str | None:
    """Return the name of the format of a file's first lines; None if no line shows a format yet.

    Lines of an unknown format, and binary data, raise `LogRefused`.
    """
    format = detect(lines)
    if isinstance(format, BadLine):
        names = ", ".join(NAMES)
        raise LogRefused(
            f"its first lines are in no known format ({names}); line {format.line}: {format.reason}"
        )
    if format is None and b"\0" in log.head:
        raise LogRefused("binary data (a NUL byte), not a log")
    return format
