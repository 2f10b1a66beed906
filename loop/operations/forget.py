"""The part of `forget` outside the ledger: the captured logs, the user's own logs, and the report.

Invariant: a captured log is changed during the transaction that changes the ledger. If a crash interrupts the
transaction, the ledger is unchanged, and the same command does everything again. The user's own logs are
reported, but never changed.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection

from agents.ingest.peek import lines_with
from agents.ingest.sources import open_log, stored_path
from corpus.errors import LogRefused
from corpus.formats.interfaces import openai
from corpus.scrub.patterns import Clean
from loop.capture import log as capture
from loop.operations.results.home import Forgotten, LogWithForgotten
from store.conversations import files, forget
from store.conversations.privacy import cleaner


def forget_everywhere(
    connection: Connection, inbox: Path, source: str, path: str, roll_back: bool
) -> tuple[forget.Forgetting, int]:
    """Remove a source, conversation or log from the ledger and from the captured logs.

    Args:
        connection: The ledger, in a transaction.
        inbox: The folder of the captured logs.
        source: The name of the source, conversation or log.
        path: The same name as an absolute path, in case it is a log file.
        roll_back: Whether to roll back to the last kept checkpoint before any update learnt from them.

    Returns:
        What was forgotten, and the number of lines that were removed from the captured logs.
    """
    forgetting = forget.forget(connection, source, path, roll_back=roll_back)
    clean = cleaner(connection)
    with capture.WRITING:
        capture.sweep(inbox)
        blanked = sum(
            _blank(connection, log, forgetting.derived.tombstones, clean) for log in capture.logs(inbox)
        )
    return forgetting, blanked


def _blank(connection: Connection, path: Path, tombstones: Collection[str], clean: Clean) -> int:
    """Blank the lines of a captured log that match a tombstone, and return their number.

    A tombstone is the digest of a forgotten conversation. The stored read position of the log is adjusted, so
    that ingest continues at the same line.
    """
    numbers = lines_with(path, openai.NAME, tombstones, clean)
    if not numbers:
        return 0
    before = _identity(path)
    cut = capture.blank(path, numbers)
    state = files.file_state(connection, stored_path(path))
    if state is not None and state.identity == before:
        behind = sum(size for number, size in cut if number <= state.line)
        state = replace(state, identity=_identity(path), offset=state.offset - behind)
        files.save_file_state(connection, state)
    return len(cut)


def _identity(path: Path) -> str:
    opened = open_log(path)
    opened.stream.close()
    return opened.identity


def count_captured(inbox: Path, tombstones: Collection[str], clean: Clean) -> int:
    """Return how many lines of the captured logs match a tombstone, once `clean` has cleaned their text."""
    return sum(len(lines_with(log, openai.NAME, tombstones, clean)) for log in capture.logs(inbox))


def logs_with(
    inbox: Path, forgetting: forget.Forgetting, formats: Mapping[str, str], clean: Clean
) -> list[LogWithForgotten]:
    """Return the user's own logs that still hold forgotten conversations, each with its line numbers.

    Args:
        inbox: The folder of the captured logs, which are not reported.
        forgetting: The forgotten conversations.
        formats: The format of each log that was ever read, by path.
        clean: Removes from a text what the home does not store.
    """
    derived, captured = forgetting.derived, {stored_path(log) for log in capture.logs(inbox)}
    logs = []
    for path, format in sorted({**derived.formats, **formats}.items()):
        if path in captured:
            continue
        try:
            lines, read = lines_with(Path(path), format, derived.tombstones, clean), True
        except LogRefused:
            lines, read = list(derived.places.get(path, ())) if Path(path).exists() else [], False
        if lines:
            logs.append(LogWithForgotten(path=path, lines=lines, read=read))
    return logs


def report(
    source: str,
    forgetting: forget.Forgetting,
    blanked: int,
    files: list[LogWithForgotten],
    *,
    dry_run: bool,
    rolled_back: bool = False,
) -> Forgotten:
    """Return the report of a `forget`; the caller adds whether the ledger's file was rewritten.

    Args:
        source: The name that the user gave.
        forgetting: What was removed from the ledger.
        blanked: Number of lines that were removed from the captured logs.
        files: The user's own logs that still hold forgotten conversations.
        dry_run: Whether nothing was changed.
        rolled_back: Whether the weights were rolled back too.
    """
    commands = _commands(forgetting)
    return Forgotten(
        source=source,
        matched=forgetting.matched,
        conversations=list(forgetting.derived.conversations),
        alike=list(forgetting.derived.alike),
        removed={**forgetting.derived.counts(), "captured_lines": blanked},
        updates=list(forgetting.updates),
        rollback_to=forgetting.rollback_to,
        rolled_back=rolled_back,
        commands=commands[1:] if rolled_back else commands,
        files=files,
        dry_run=dry_run,
    )


def _commands(forgetting: forget.Forgetting) -> list[str]:
    """Return the commands that roll the weights back and train them again without what was forgotten.

    Return none if no kept update has learnt from it.
    """
    if forgetting.rollback_to is None:
        return []
    return [f"nightschool rollback {forgetting.rollback_to[:12]}", "nightschool night --retry"]
