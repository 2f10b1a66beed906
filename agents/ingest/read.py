"""Read what is new in log files into the ledger, a batch at a time.

Invariant: a batch's conversations, its quarantined lines and the file offset after the batch are committed in
one transaction. So reading resumes after the last batch when the process has died, and no turn is lost or
repeated. A bad line or file becomes an entry of the report, not an exception. A file of lines is read on from
where reading ended; any other file (an array, a compressed file, a format whose records depend on each other)
is read as a whole when it has changed. This module does not know how the turns are used.
"""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio.to_thread

from agents.ingest.files import logs_at, skipped_below
from agents.ingest.records import Numbered, Parser, detected, records
from agents.ingest.report import FileRead, IngestReport, QuarantinedLine, SkippedFile, merged
from agents.ingest.sources import OpenLog, archived, opened, stored_path, unreadable
from corpus.conversation import Conversation
from corpus.errors import LogRefused, UsageError
from corpus.formats.detect import named
from corpus.formats.feedback import Scale, asked_scale
from corpus.formats.format import Format
from corpus.formats.texts import is_text
from corpus.lines import BadLine, RawLine, in_lines
from corpus.scrub.patterns import scrub
from store.conversations import files
from store.conversations.batch import add_all
from store.conversations.files import FileState
from store.ledger.db import Ledger
from store.queue.outcome import note

BATCH_LINES = 1000
"""Largest number of lines in one transaction: few enough for a short transaction, many enough that the time
for the disk's sync does not matter."""

BATCH_BAD = 200
"""Bad lines after which a transaction takes no further line: a file in a wrong format is given up early."""

BATCH_BYTES = 4 * 2**20
"""Bytes after which a transaction takes no further line. This bounds its memory and its time."""

MOST_BAD = 1000
"""A file is quarantined when more than this many lines, and more than half of the lines read, are bad: then
the format must be wrong."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How files are read."""

    format: str | None = None
    """Name of the format of every file; None to detect each file's format."""
    scale: Scale | None = None
    """The scale of all ratings; None to find it from the numbers of each file."""
    last: bool = True
    """Whether a last line counts that has no line end; a file that is followed waits for it."""


DEFAULTS = Options()
"""Read as by hand: formats and scales are found, and the last line counts."""


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
    waiting: list[BadLine] = field(default_factory=list)
    """The last line of the file, if it is not finished; it is not stored, because it is read again."""

    def add(self, read: Numbered) -> None:
        """Add what was read from a record to the batch."""
        self.lines += 1
        record = read.record
        if isinstance(record, RawLine):
            if not record.ended and read.parts and all(isinstance(part, BadLine) for part in read.parts):
                self.waiting += [part for part in read.parts if isinstance(part, BadLine)]
                return
            self.last = record
            self.size += len(record.data or b"")
        for part in read.parts:
            if isinstance(part, BadLine):
                self.bad.append(part)
            else:
                self.conversations.append(part)

    @property
    def full(self) -> bool:
        """Whether the batch takes no further record."""
        return self.lines >= BATCH_LINES or self.size >= BATCH_BYTES or len(self.bad) >= BATCH_BAD


async def ingest_paths(
    ledger: Ledger, paths: Iterable[Path], format: str | None = None, *, ratings: str = ""
) -> IngestReport:
    """Read all logs at these paths into the ledger, and return one report of them all.

    Args:
        ledger: The ledger that the turns are added to.
        paths: Files, and folders whose logs are all read.
        format: Name of the format of every file; None to detect each file's format.
        ratings: The scale of all ratings, such as 1..5; "" to find it from the numbers of each file.

    Raises:
        UsageError: A path cannot be read, or the format or the scale is unknown. Nothing has been read then.
    """
    options, paths = options_of(format, ratings), list(paths)
    logs = [file for path in paths for file in await anyio.to_thread.run_sync(logs_at, path)]
    reports = []
    for file in dict.fromkeys(logs):
        before = await ledger.read(files.ids_of_path, stored_path(file))
        report = await in_threads(read_log(ledger, file, options))
        reports.append(replace(report, known=report.known + len(before - report.ids)))
    reports += [await anyio.to_thread.run_sync(skipped_at, path) for path in dict.fromkeys(paths)]
    return merged(reports)


def options_of(format: str | None, ratings: str) -> Options:
    """Return the options for a format and a scale that a user gave; raise UsageError if one is unknown."""
    if format is not None:
        named(format)
    scale = asked_scale(ratings) if ratings else None
    if ratings and scale is None:
        raise UsageError(f"--ratings {ratings} is no scale: give the worst and the best number, such as 1..5")
    return Options(format=format, scale=scale)


def skipped_at(path: Path) -> IngestReport:
    """Return a report of the files below a folder that are not read."""
    files = (SkippedFile(path=file.path, reason=file.reason) for file in skipped_below(path))
    return IngestReport(skipped=tuple(files))


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


def read_log(ledger: Ledger, path: Path, options: Options = DEFAULTS) -> Generator[IngestReport, None, None]:
    """Read what is new in one file, and yield a report after each committed batch.

    A file that cannot be read is quarantined, and a report says so. In an archive, every log is read.
    """
    count = 0
    try:
        for log in opened(path):
            count += 1
            try:
                yield from _read_open(ledger, log, options)
            except LogRefused as refused:
                yield quarantine_file(ledger, log.path, str(refused))
        beside = archived(path)
        if not count:
            yield quarantine_file(ledger, stored_path(path), "a zip archive without a log in it")
        elif beside:
            reason = "a file of the archive whose name is not that of a log"
            skipped = [SkippedFile(path=stored_path(path / name), reason=reason) for name in beside]
            yield IngestReport(skipped=tuple(skipped))
    except LogRefused as refused:
        yield quarantine_file(ledger, stored_path(path), str(refused))
    except OSError as error:
        yield quarantine_file(ledger, stored_path(path), unreadable(error))


def quarantine_file(ledger: Ledger, path: str, reason: str) -> IngestReport:
    """Quarantine a whole file and return a report that says so.

    The ledger records the event only once for each file and reason.
    """
    with ledger.writing() as connection:
        if files.set_aside_line(connection, path, 0, reason):
            note(connection, "log_set_aside", path, {"reason": scrub(reason)})
    line = QuarantinedLine(path=path, line=0, reason=scrub(reason))
    return IngestReport(files=(FileRead(path=path, format=None),), quarantined=(line,))


def _read_open(ledger: Ledger, log: OpenLog, options: Options) -> Iterator[IngestReport]:
    """Read what is new in an open log; yield a report for each batch, then one that names the file."""
    grows = log.plain and in_lines(log.head) and not is_text(log.head)
    state = _resumed(ledger, log, options.format) if grows else None
    format = detected(log, options.format, state.format if state else "")
    if grows and state and (format is None or format.join is None):
        yield from _lines(ledger, log, format, state, options)
    else:
        yield from _whole(ledger, log, format, options)


def _file(log: OpenLog, format: Format | None, *, waiting: bool = False) -> IngestReport:
    """Return the report that names a file."""
    name = format.name if format else None
    read = FileRead(path=log.path, format=name, encoding=log.encoding, compression=log.compression or None)
    return IngestReport(files=(read,), waiting=(log.path,) if waiting else ())


def _lines(
    ledger: Ledger, log: OpenLog, format: Format | None, state: FileState, options: Options
) -> Iterator[IngestReport]:
    """Read a file with one record a line, from the stored offset to its end."""
    if format is not None:
        parser = Parser(log=log, format=format, sure=options.format is not None, scale=options.scale)
        state = replace(state, format=format.name)
        lines = records(log, offset=state.offset, number=state.line, last=options.last)
        read = (Numbered(record=record, parts=parser.parse(record)) for record in lines)
        for reached, report in _batches(ledger, log.path, read, state):
            state = reached
            yield report
    yield _file(log, format, waiting=state.offset < log.size)


def _whole(ledger: Ledger, log: OpenLog, format: Format | None, options: Options) -> Iterator[IngestReport]:
    """Read a file as a whole, and again from its beginning if it has changed."""
    identity = f"{log.inode}:whole:{log.whole_digest()}"
    with ledger.reading() as connection:
        state = files.file_state(connection, log.path)
    if format is not None and (state is None or (state.identity, state.format) != (identity, format.name)):
        if state is not None and state.format:
            _restart(ledger, replace(state, offset=0, line=0), "rewritten")
        start = FileState(path=log.path, format=format.name, identity=identity, offset=0, line=0)
        end = replace(start, offset=log.size)
        parser = Parser(log=log, format=format, sure=options.format is not None, scale=options.scale)
        found = parser.whole(options.last)
        for _, report in _batches(ledger, log.path, found, start, end=end):
            yield report
    yield _file(log, format, waiting=_unended(log) and not options.last)


def _unended(log: OpenLog) -> bool:
    """Return whether the last line of a file of lines has no line end."""
    if not (log.plain and log.size and in_lines(log.head)):
        return False
    log.stream.seek(log.size - 1)
    return log.stream.read(1) != log.ending


def _batches(
    ledger: Ledger, path: str, read: Iterator[Numbered], state: FileState, *, end: FileState | None = None
) -> Iterator[tuple[FileState, IngestReport]]:
    """Commit what is read in batches; yield the file's state and a report after each batch.

    Args:
        ledger: The ledger to commit to.
        path: The stored path of the file.
        read: What is read from the records that are new.
        state: The file's state before these records.
        end: For a file that is read as a whole, the state to store with the last batch; nothing is stored
            with the others. None for a file of lines, whose state is stored with every batch.
    """
    seen: set[str] = set()
    bad_count = line_count = 0
    more, first = True, state.line == 0
    while more:
        batch = _Batch()
        for part in read:
            batch.add(part)
            if batch.full:
                break
        else:
            more = False
        bad_count, line_count = bad_count + len(batch.bad), line_count + batch.lines
        if batch.last is not None:
            state = replace(state, offset=batch.last.end, line=batch.last.number)
        if batch.lines or end is not None:
            final = state if end is None else None if more else replace(end, line=state.line)
            yield state, _commit(ledger, path, batch, final, seen, first=first)
            first = False
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
            of an earlier reading are removed.
    """
    new = known = turns = forgotten = 0
    ids: set[str] = set()
    with ledger.writing() as connection:
        if first:
            files.forget_set_aside(connection, path)
        stored = add_all(connection, batch.conversations, path)
        for conversation, added in zip(batch.conversations, stored, strict=True):
            if added.forgotten:
                forgotten += 1
                continue
            again = bool(conversation.key) and added.conversation_id in seen
            new, known = new + (not added.known), known + (added.known and not again)
            turns += added.new_turns
            ids.add(added.conversation_id)
        for bad in batch.bad:
            files.set_aside_line(connection, path, bad.line, bad.reason)
        if batch.bad:
            note(connection, "lines_set_aside", path, {"lines": len(batch.bad), "first": batch.bad[0].line})
        if state is not None:
            files.save_file_state(connection, state)
    seen |= ids
    return IngestReport(
        new=new,
        known=known,
        turns=turns,
        forgotten=forgotten,
        quarantined=tuple(
            QuarantinedLine(path=path, line=bad.line, reason=scrub(bad.reason))
            for bad in (*batch.bad, *batch.waiting)
        ),
        ids=frozenset(ids),
    )


def _resumed(ledger: Ledger, log: OpenLog, format: str | None) -> FileState:
    """Return the state from which to read on: the stored state, or a state at the file's beginning.

    Reading starts at the beginning if the file is new, was replaced or rewritten, or gets another format.
    """
    with ledger.reading() as connection:
        state = files.file_state(connection, log.path)
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
    around = log.stream.read(2)
    ended = around[:1] == log.ending or len(around) < 2 or around[1:] == log.ending
    if not ended:
        return "rewritten"
    return "another format was asked for" if format not in (None, state.format) else ""


def _restart(ledger: Ledger, fresh: FileState, reason: str) -> None:
    """Record that a file is read from its beginning again, and why; `fresh` is the state to store."""
    with ledger.writing() as connection:
        note(connection, "log_begun_again", fresh.path, {"why": reason})
        files.save_file_state(connection, fresh)
