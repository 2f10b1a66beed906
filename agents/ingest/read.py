"""Read what is new in log files into the ledger, a batch at a time.

Invariant: a batch's conversations, its quarantined lines and the offset behind them are one transaction, so a
reader that dies resumes where it was and neither loses nor doubles a turn. Only whole lines are consumed. A
bad line or file is a value in the report, never an exception. This module does not know who waits for the
turns.
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
"""Lines in one transaction: few enough to be quick, many enough that the disk's sync does not matter."""

BATCH_BYTES = 4 * 2**20
"""Bytes in one transaction: bounds its memory and the time for which it holds the writer."""

MOST_BAD = 1000
"""Bad lines after which a file is given up for now, if they are more than half: the format must be wrong."""


@dataclass(kw_only=True)
class _Batch:
    """The content of the next transaction."""

    conversations: list[Conversation] = field(default_factory=list)
    bad: list[BadLine] = field(default_factory=list)
    lines: int = 0
    size: int = 0
    last: RawLine | None = None

    def add(self, record: Record, read: Reader) -> None:
        """Parse one record into the batch."""
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
    """Read files and folders; a bad path or format raises `UsageError` before anything is read."""
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
    """Run the batches of a file in threads, one by one: a cancellation waits for one batch only."""
    reports: list[IngestReport] = []
    try:
        while (report := await anyio.to_thread.run_sync(next, batches, None)) is not None:
            reports.append(report)
    finally:
        batches.close()
    return merged(reports)


def read_log(ledger: Ledger, path: Path, format: str | None = None) -> Generator[IngestReport, None, None]:
    """Read what is new in one file; each report is about a batch that is committed."""
    try:
        log = open_log(path)
        with log.stream:
            yield from (_array(ledger, log, format) if is_array(log.head) else _lines(ledger, log, format))
    except LogRefused as refused:
        yield quarantine_file(ledger, stored_path(path), str(refused))
    except OSError as error:
        yield quarantine_file(ledger, stored_path(path), unreadable(error))


def quarantine_file(ledger: Ledger, path: str, reason: str) -> IngestReport:
    """Quarantine a whole file; the event is written once for each reason."""
    with ledger.writing() as connection:
        if conversations.set_aside_line(connection, path, 0, reason):
            note(connection, "log_set_aside", path, {"reason": scrub(reason)})
    line = QuarantinedLine(path=path, line=0, reason=scrub(reason))
    return IngestReport(files=(FileRead(path=path, format=None),), quarantined=(line,))


def _lines(ledger: Ledger, log: OpenLog, format: str | None) -> Iterator[IngestReport]:
    """Read a file with one record a line, from the stored offset to its last newline."""
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
    """Read a file that is one JSON array: whole, and again whenever it has changed."""
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
    """Parse and commit the records, a batch at a time, and yield the state after each.

    end: the state of an array, which is stored with the last batch only; None for a file of lines.
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
    """Commit a batch; `seen` are the conversations of earlier batches of this reading, and is extended."""
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
    """Join the parts of each keyed conversation of a batch: one piece of work, not hundreds."""
    parts: dict[str, list[Conversation]] = {}
    for conversation in parsed:
        if conversation.key:
            parts.setdefault(conversation.key, []).append(conversation)
        else:
            yield conversation
    for same in parts.values():
        yield replace(same[0], turns=tuple(turn for part in same for turn in part.turns))


def _resumed(ledger: Ledger, log: OpenLog, format: str | None) -> FileState:
    """Return the stored state, or the beginning where the file is no longer the one that was read."""
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
    """Record that a file is read from its beginning, and why."""
    with ledger.writing() as connection:
        note(connection, "log_begun_again", fresh.path, {"why": reason})
        conversations.save_file_state(connection, fresh)


def _detected(log: OpenLog, lines: Iterator[Record]) -> str | None:
    """Return the format of a file by its first lines; None while it has none."""
    format = detect(lines)
    if isinstance(format, BadLine):
        names = ", ".join(NAMES)
        raise LogRefused(
            f"its first lines are in no known format ({names}); line {format.line}: {format.reason}"
        )
    if format is None and b"\0" in log.head:
        raise LogRefused("binary data (a NUL byte), not a log")
    return format
