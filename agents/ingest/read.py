"""What is new in log files, into the ledger, a batch at a time.

Invariant: a batch's conversations, the lines set aside and the offset behind them are one transaction, so a
reader that dies anywhere goes on where it was and neither loses nor doubles a turn. Only whole lines are
consumed. A bad line or file is a value in the report, never an exception. Does not know who waits for it.
"""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import anyio.to_thread

from agents.ingest.files import Opened, digest, logs_at, open_log, stored_path, told
from agents.ingest.report import FileRead, IngestReport, SetAside, merged
from corpus.conversation import Conversation
from corpus.errors import LogRefused
from corpus.formats.detect import NAMES, Reader, detect, reader
from corpus.lines import MAX_ARRAY, BadLine, RawLine, array_items, decode, is_array, whole_lines
from corpus.scrub.patterns import scrub
from store.conversations import conversations as kept
from store.conversations.conversations import FileState
from store.ledger.db import Ledger
from store.queue.outcome import note

BATCH_LINES = 200
"""Lines in one transaction: few enough to be quick, many enough that the disk's sync does not matter."""

BATCH_BYTES = 4 * 2**20
"""Bytes in one transaction: bounds its memory and how long it holds the writer."""

MOST_BAD = 1000
"""Bad lines after which a file is given up for now, if they are more than half: the format must be wrong."""

Item = RawLine | BadLine


@dataclass(kw_only=True)
class _Batch:
    """What goes into the next transaction."""

    conversations: list[Conversation] = field(default_factory=list)
    bad: list[BadLine] = field(default_factory=list)
    lines: int = 0
    size: int = 0
    last: RawLine | None = None

    def take(self, item: Item, read: Reader) -> None:
        """Read one line into the batch."""
        self.lines += 1
        if isinstance(item, BadLine):
            self.bad.append(item)
            return
        self.last = item
        self.size += len(item.data or b"")
        if item.blank:
            return
        value = decode(item)
        found = value if isinstance(value, BadLine) else read(value, item.number)
        if isinstance(found, BadLine):
            self.bad.append(found)
        elif found is not None:
            self.conversations.append(found)


async def ingest_paths(ledger: Ledger, paths: Iterable[Path], format: str | None = None) -> IngestReport:
    """Read files and folders; a path or a format that cannot be meant is a UsageError, before anything is read."""
    if format is not None:
        reader(format)
    files = [file for path in paths for file in await anyio.to_thread.run_sync(logs_at, path)]
    reports = []
    for file in dict.fromkeys(files):
        before = await ledger.read(kept.ids_of_path, stored_path(file))
        report = await in_threads(read_log(ledger, file, format))
        reports.append(replace(report, known=report.known + len(before - report.ids)))
    return merged(reports)


def ingest_path(ledger: Ledger, path: Path, format: str | None = None) -> IngestReport:
    """Read one file or folder, from code that has no event loop."""
    return anyio.run(ingest_paths, ledger, [path], format)


async def in_threads(batches: Generator[IngestReport, None, None]) -> IngestReport:
    """Run the batches of a file in threads, one by one: a cancellation waits for one batch, not for the file."""
    reports: list[IngestReport] = []
    try:
        while (report := await anyio.to_thread.run_sync(next, batches, None)) is not None:
            reports.append(report)
    finally:
        batches.close()
    return merged(reports)


def read_log(ledger: Ledger, path: Path, format: str | None = None) -> Generator[IngestReport, None, None]:
    """Read what is new in one file; each report tells of a batch that is committed."""
    try:
        opened = open_log(path)
        with opened.stream:
            yield from (
                _array(ledger, opened, format) if is_array(opened.head) else _lines(ledger, opened, format)
            )
    except LogRefused as refused:
        yield refuse(ledger, stored_path(path), str(refused))
    except OSError as error:
        yield refuse(ledger, stored_path(path), f"cannot be read: {told(error)}")


def _lines(ledger: Ledger, opened: Opened, format: str | None) -> Iterator[IngestReport]:
    """A file with one record a line: from where it was left, to its last newline."""
    state = _resumed(ledger, opened, format)
    name = format or state.format or _format(opened, whole_lines(opened.stream, until=opened.size))
    if name is not None:
        state = replace(state, format=name)
        items = whole_lines(opened.stream, until=opened.size, offset=state.offset, number=state.line)
        for reached, report in _batches(ledger, opened.path, items, state):
            state = reached
            yield report
    yield IngestReport(
        files=(FileRead(path=opened.path, format=name),),
        waiting=(opened.path,) if state.offset < opened.size else (),
    )


def _array(ledger: Ledger, opened: Opened, format: str | None) -> Iterator[IngestReport]:
    """A file that is one JSON array: read whole, and again whenever it has changed."""
    if opened.size > MAX_ARRAY:
        raise LogRefused(
            f"a JSON array of more than {MAX_ARRAY // 2**20} MiB: write one object a line (jq -c '.[]' FILE)"
        )
    data = opened.stream.read(opened.size)
    identity = f"{opened.inode}:array:{digest(data)}"
    with ledger.reading() as connection:
        state = kept.file_state(connection, opened.path)
    name = format or _format(opened, array_items(data))
    files = (FileRead(path=opened.path, format=name),)
    if name is not None and (state is None or (state.identity, state.format) != (identity, name)):
        if state is not None:
            _noted(ledger, replace(state, offset=0, line=0), "rewritten")
        start = FileState(path=opened.path, format=name, identity=identity, offset=0, line=0)
        end = replace(start, offset=opened.size)
        for _, report in _batches(ledger, opened.path, array_items(data), start, end=end):
            yield report
    yield IngestReport(files=files)


def _batches(
    ledger: Ledger, path: str, items: Iterator[Item], state: FileState, *, end: FileState | None = None
) -> Iterator[tuple[FileState, IngestReport]]:
    """Read and commit the items, a batch at a time; `end` is the state of a file that only counts as a whole."""
    read = reader(state.format)
    heard: set[str] = set()
    bad = lines = 0
    more = True
    while more:
        batch = _Batch()
        for item in items:
            batch.take(item, read)
            if batch.lines >= BATCH_LINES or batch.size >= BATCH_BYTES:
                break
        else:
            more = False
        bad, lines = bad + len(batch.bad), lines + batch.lines
        first = state.line == 0
        if batch.last is not None:
            state = replace(state, offset=batch.last.end, line=batch.last.number)
        if batch.lines or end is not None:
            final = state if end is None else None if more else replace(end, line=state.line)
            yield state, _committed(ledger, path, batch, final, heard, first=first)
        if bad > MOST_BAD and 2 * bad > lines:
            raise LogRefused(f"{bad:,} of {lines:,} lines are not {state.format}: see --format")


def _committed(
    ledger: Ledger, path: str, batch: _Batch, state: FileState | None, heard: set[str], *, first: bool
) -> IngestReport:
    """Commit a batch; `heard` are the conversations that this reading met before."""
    new = known = turns = forgotten = 0
    ids: set[str] = set()
    with ledger.writing() as connection:
        if first:
            kept.forget_set_aside(connection, path)
        for conversation in _joined(batch.conversations):
            added = kept.add(connection, conversation, path)
            if added.forgotten:
                forgotten += 1
                continue
            again = bool(conversation.key) and added.conversation_id in heard
            new, known = new + (not added.known), known + (added.known and not again)
            turns += added.new_turns
            ids.add(added.conversation_id)
        for bad in batch.bad:
            kept.set_aside_line(connection, path, bad.line, bad.reason)
        if batch.bad:
            note(connection, "lines_set_aside", path, {"lines": len(batch.bad), "first": batch.bad[0].line})
        if state is not None:
            kept.save_file_state(connection, state)
    heard |= ids
    aside = tuple(SetAside(path=path, line=bad.line, reason=scrub(bad.reason)) for bad in batch.bad)
    return IngestReport(
        new=new, known=known, turns=turns, forgotten=forgotten, set_aside=aside, ids=frozenset(ids)
    )


def _joined(conversations: list[Conversation]) -> Iterator[Conversation]:
    """The conversations of a batch, the parts of each keyed one put together: one piece of work, not hundreds."""
    parts: dict[str, list[Conversation]] = {}
    for conversation in conversations:
        if conversation.key:
            parts.setdefault(conversation.key, []).append(conversation)
        else:
            yield conversation
    for same in parts.values():
        yield replace(same[0], turns=tuple(turn for part in same for turn in part.turns))


def _resumed(ledger: Ledger, opened: Opened, format: str | None) -> FileState:
    """Where to go on reading; the beginning, for a file that is not the one that was read."""
    with ledger.reading() as connection:
        state = kept.file_state(connection, opened.path)
    fresh = FileState(path=opened.path, format="", identity=opened.identity, offset=0, line=0)
    if state is None or state.offset == 0:
        return fresh
    why = _why_again(state, opened, format)
    if not why:
        return state
    _noted(ledger, fresh, why)
    return fresh


def _why_again(state: FileState, opened: Opened, format: str | None) -> str:
    """Why a file has to be read from its beginning; "" if it only grew."""
    if opened.size < state.offset:
        return "truncated"
    if state.identity != opened.identity:
        return "rotated"
    opened.stream.seek(state.offset - 1)
    if opened.stream.read(1) != b"\n":
        return "rewritten"
    return "another format was asked for" if format not in (None, state.format) else ""


def _noted(ledger: Ledger, fresh: FileState, why: str) -> None:
    """Remember that a file begins again, and why."""
    with ledger.writing() as connection:
        note(connection, "log_begun_again", fresh.path, {"why": why})
        kept.save_file_state(connection, fresh)


def _format(opened: Opened, items: Iterator[Item]) -> str | None:
    """The format of a file from its first lines; None where there are none yet."""
    found = detect(items)
    if isinstance(found, BadLine):
        names = ", ".join(NAMES)
        raise LogRefused(f"its first lines are no known format ({names}); line {found.line}: {found.reason}")
    if found is None and b"\0" in opened.head:
        raise LogRefused("binary data (a NUL byte), not a log")
    return found


def refuse(ledger: Ledger, path: str, reason: str) -> IngestReport:
    """Set a whole file aside; an event tells of it once."""
    with ledger.writing() as connection:
        if kept.set_aside_line(connection, path, 0, reason):
            note(connection, "log_set_aside", path, {"reason": scrub(reason)})
    aside = SetAside(path=path, line=0, reason=scrub(reason))
    return IngestReport(files=(FileRead(path=path, format=None),), set_aside=(aside,))
