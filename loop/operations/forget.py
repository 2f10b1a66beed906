"""`forget` beyond the ledger: the captured logs, the user's own logs, and what is told at the end.

Invariant: a captured log is changed in the transaction that changes the ledger; a crash in between leaves the ledger
as it was, and the same command does it all again. A log that is not ours is named and never touched.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from sqlalchemy import Connection

from agents.ingest.files import open_log, stored_path
from agents.ingest.peek import lines_with
from corpus.aliases import Json
from corpus.errors import LogRefused
from corpus.formats import openai
from loop.capture import log as capture
from store.conversations import conversations as kept
from store.conversations import forget


def carry_out(
    connection: Connection, inbox: Path, source: str, path: str, roll_back: bool
) -> tuple[forget.Forgetting, int]:
    """Forget it, in the ledger and in the captured logs; returns the lines that went from these as well."""
    found = forget.forget(connection, source, path, roll_back=roll_back)
    with capture.WRITING:
        capture.sweep(inbox)
        emptied = sum(_blank(connection, log, found.derived.tombstones) for log in capture.logs(inbox))
    return found, emptied


def _blank(connection: Connection, path: Path, tombstones: Collection[str]) -> int:
    """Empty the lines of a captured log that hold it, and have it read on where it was; returns their number."""
    numbers = lines_with(path, openai.NAME, tombstones)
    if not numbers:
        return 0
    before = _identity(path)
    cut = capture.blank(path, numbers)
    state = kept.file_state(connection, stored_path(path))
    if state is not None and state.identity == before:
        behind = sum(size for number, size in cut if number <= state.line)
        now = replace(state, identity=_identity(path), offset=state.offset - behind)
        kept.save_file_state(connection, now)
    return len(cut)


def _identity(path: Path) -> str:
    opened = open_log(path)
    opened.stream.close()
    return opened.identity


def captured(inbox: Path, tombstones: Collection[str]) -> int:
    """How many lines of the captured logs hold it."""
    return sum(len(lines_with(log, openai.NAME, tombstones)) for log in capture.logs(inbox))


def holding(inbox: Path, found: forget.Forgetting, formats: Mapping[str, str]) -> list[Json]:
    """The logs of the user that hold it, each with the lines; one that is gone holds nothing.

    formats: of every log that was ever read, by path. Of one that cannot be read now these are the lines by which it
    was heard.
    """
    derived, ours = found.derived, {stored_path(log) for log in capture.logs(inbox)}
    told = []
    for path, format in sorted({**derived.formats, **formats}.items()):
        if path in ours:
            continue
        try:
            lines, read = lines_with(Path(path), format, derived.tombstones), True
        except LogRefused:
            lines, read = list(derived.places.get(path, ())) if Path(path).exists() else [], False
        if lines:
            told.append({"path": path, "lines": lines, "read": read})
    return told


def told(source: str, found: forget.Forgetting, emptied: int, files: list[Json], *, dry_run: bool) -> Json:
    """What is told of it; the caller adds what became of the weights."""
    return {
        "source": source,
        "matched": found.matched,
        "conversations": list(found.derived.conversations),
        "alike": list(found.derived.alike),
        "removed": {**found.derived.counts(), "captured_lines": emptied},
        "updates": [asdict(update) for update in found.updates],
        "rollback_to": found.rollback_to,
        "rolled_back": False,
        "commands": commands(found),
        "files": files,
        "dry_run": dry_run,
    }


def commands(found: forget.Forgetting) -> list[str]:
    """How the weights are brought back to before it, and taught again without it."""
    if found.rollback_to is None:
        return []
    return [f"nightschool rollback {found.rollback_to[:12]}", "nightschool night --retry"]
