"""The output of `ingest`, `ledger` and `forget`."""

from rich.table import Table

from corpus.context import last_request
from loop.cli.show import readout
from loop.cli.show.console import err, out, rate
from loop.operations.results.home import (
    Forgotten,
    Ingested,
    Previewed,
    ScrubCheck,
    SkippedLog,
    UpdateOrigins,
)
from loop.verdict.course import Course
from store.nights.results import Listing, WhyPair

MOST_LINES = 10
"""Largest number of lines of a log that are named."""
MOST_PAIRS = 3
"""Largest number of pairs of an update that are printed."""


def ingested(report: Ingested) -> None:
    """Print what was read, and on stderr what could not be read."""
    for file in report.files:
        out.print(f"{file.path} ({file.format})")
    count = report.conversations
    out.print(f"{count.new} new conversations, {count.known} known, {report.turns} new turns")
    if report.forgotten:
        out.print(f"{report.forgotten} passed over: they contain what was forgotten (`nightschool forget`)")
    for line in report.set_aside:
        err.print(f"quarantined: {line.path}:{line.line}: {line.reason}")
    for path in report.waiting:
        err.print(f"waiting: {path}: its last line is not finished")
    _skipped(report.skipped)


def _skipped(files: list[SkippedLog]) -> None:
    for file in files[:MOST_LINES]:
        err.print(f"skipped: {file.path}: {file.reason}")
    if len(files) > MOST_LINES:
        err.print(f"skipped: {len(files) - MOST_LINES} more files, see --json")


def previewed(report: Previewed) -> None:
    """Print what an ingest would store, in a table for each file; print to stderr what it would skip."""
    for file in report.files:
        packed = f", {file.compression}" if file.compression else ""
        count = len(file.conversations)
        out.print(f"{file.path} ({file.format}, {file.encoding}{packed}): {count} conversations")
        if not count:
            continue
        table = Table("line", "at", "role", "text", "rating", "edited", "signals")
        for conversation in file.conversations:
            table.add_section()
            marks: dict[int, list[str]] = {}
            for signal in conversation.signals:
                because = ", ".join(signal.because)
                mark = f"{signal.kind} {signal.strength:.2f} about {signal.about}: {because}"
                marks.setdefault(signal.position, []).append(mark)
            for index, turn in enumerate(conversation.turns):
                rating = "" if turn.rating is None else f"{turn.rating:+.2g}"
                cells = (str(turn.line), turn.at or "", f"{index} {turn.role}", _cell(turn.text), rating)
                table.add_row(*cells, _cell(turn.edited), "; ".join(marks.get(index, [])))
        out.print(table)
    turns = sum(len(each.turns) for file in report.files for each in file.conversations)
    signals = sum(len(each.signals) for file in report.files for each in file.conversations)
    out.print(f"{turns} turns, {signals} signals; nothing was stored")
    for line in report.set_aside:
        err.print(f"would be set aside: {line.path}:{line.line}: {line.reason}")
    _skipped(report.skipped)


def scrubbed(report: ScrubCheck) -> None:
    """Print which secrets would be removed from a file, and where."""
    total = 0
    for line in report.lines:
        total += sum(line.secrets.values())
        kinds = ", ".join(f"{count} {kind}" for kind, count in line.secrets.items())
        out.print(f"{report.file}:{line.line}: {kinds}")
    out.print(f"{total} secret{'' if total == 1 else 's'} in {len(report.lines)} of {report.count} lines")


def rows(name: str, listing: Listing) -> None:
    """Print rows of the ledger as a table, with long values cut."""
    if not listing.rows:
        out.print(f"no {name} yet")
        return
    table = Table()
    for column in listing.columns:
        table.add_column(column, no_wrap=column in ("id", "seq", "subject"), overflow="fold")
    for row in listing.rows:
        table.add_row(*map(_cell, row))
    out.print(table)


def _cell(value: object) -> str:
    """Format a value for a table, cut to 60 characters; --json has the whole value."""
    if isinstance(value, list) and value and isinstance(value[0], dict) and "content" in value[0]:
        value = last_request(value)  # of the messages of a context, show the request
    if isinstance(value, list):
        value = "; ".join(map(str, value))
    if isinstance(value, dict):
        value = ", ".join(f"{key} {part}" for key, part in value.items())
    text = "" if value is None else str(value)
    return (text[:60] + "...") if len(text) > 63 else text


def why(origins: UpdateOrigins | WhyPair) -> None:
    """Print the pairs and log lines from which an update or a pair came."""
    if isinstance(origins, WhyPair):
        _pair(origins)
    else:
        update = origins.update
        out.print(f"update {update.id}: {update.verdict}, {len(origins.pairs)} pairs, from these log lines:")
        readout.located(update.moves)
        if (tested := update.abilities) and tested.before and tested.after:
            out.print(f"abilities {rate(tested.before)} -> {rate(tested.after)}")
        _evidence(origins.evidence or [])
        for pair in origins.pairs[:MOST_PAIRS]:
            _pair(pair)
    for line in origins.log_lines:
        out.print(f"  {line.path}:{line.line}  {line.source}: {line.text}")
    if not origins.log_lines:
        out.print("  no log lines: it comes from the behaviour's declared examples alone")
    if isinstance(origins, UpdateOrigins) and origins.predictions:
        readout.predictions(origins.predictions)


def _evidence(courses: list[Course]) -> None:
    """Print the E-values of a verdict after each batch of scenarios, and what would have changed them."""
    if not courses:
        return
    table = Table("behaviour", "outcome", "evidence", "E-value (after so many scenarios)", "would differ if")
    for one in courses:
        steps = [f"{value:.3g} ({count})" for value, count in zip(one.values, one.scenarios, strict=True)]
        kind = f"held within {one.margin:.0%}" if one.of == "held" else one.of
        turns = "" if one.turns is None else f"{one.turns} scenario{'' if one.turns == 1 else 's'} turned"
        table.add_row(one.behaviour, one.outcome, kind, ", ".join(steps), turns)
    out.print("evidence of the verdict: 20 or more is enough")
    out.print(table)


def _pair(pair: WhyPair) -> None:
    out.print(f"pair {pair.id} ({pair.behaviour}, {pair.state})")
    if earlier := len(pair.messages) - 1:
        out.print(f"  context   {earlier} messages before or after the request (--json has them)")
    out.print(f"  asked     {last_request(pair.messages)}")
    out.print(f"  chosen    {pair.chosen}   [{pair.chosen_from}]")
    out.print(f"  rejected  {pair.rejected}   [{pair.rejected_from}]")


def forgotten(report: Forgotten) -> None:
    """Print what `forget` removed, which updates had learnt from it, and which logs still hold it."""
    verb = "would be" if report.dry_run else "were"
    kind = {"source": "a source", "conversation": "a conversation's id", "log": "a log"}[report.matched]
    out.print(
        f"{report.source} is {kind}: {len(report.conversations)} conversations {verb} forgotten",
    )
    counts = (f"{count} {name.replace('_', ' ')}" for name, count in report.removed.items() if count)
    out.print(f"removed: {', '.join(counts)}")
    if report.alike:
        out.print(f"these begin with the same turns, and stay: {', '.join(report.alike)}")
    _updates(report)
    for file in report.files:
        lines = ", ".join(map(str, file.lines[:MOST_LINES])) + (", ..." if file.lines[MOST_LINES:] else "")
        why = "" if file.read else " (the file cannot be read now: these lines were read earlier)"
        out.print(
            f"it is still in {file.path}, lines {lines}{why}: Nightschool does not change your logs",
        )
    if report.wiped is False:
        err.print("the ledger's file could not be rewritten (is the disk full, or the ledger being read?)")
        err.print(
            "deleted rows are overwritten, but older copies may be left: run `sqlite3 ledger.db VACUUM` later"
        )


def _updates(report: Forgotten) -> None:
    """Print the updates that learnt from what was forgotten, and commands for weights that did not."""
    if not report.updates:
        out.print("no update learnt from it")
        return
    table = Table("update", "state", "checkpoint", "pairs of it", title="updates that learnt from it")
    for row in report.updates:
        learnt = str(row.pairs) if row.pairs else f"built on {row.built_on}"
        table.add_row(row.id, row.state, row.checkpoint[:12], learnt)
    out.print(table)
    if report.rolled_back and report.rollback_to:
        out.print(f"the weights were rolled back to {report.rollback_to[:12]}, from before it")
    if report.commands:
        out.print("to get weights without it:")
        for command in report.commands:
            out.print(f"  {command}")
    elif report.rollback_to is None and any(row.state == "kept" for row in report.updates):
        out.print("no rollback is possible: every kept checkpoint from before it was pruned")
    out.print(
        "the files of these checkpoints are still on disk: `nightschool checkpoints prune` deletes files"
    )
