"""The output of `checkpoints diff`: tables of the largest differences; --json has all of them."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from rich.table import Table

from loop.cli.show.checkpoints import pair_counts
from loop.cli.show.console import behaviour_name, out, points, rate
from loop.cli.show.readout import located
from loop.operations.results.checkpoints import Difference, WeightChanges
from store.nights.comparisons import ComparedBehaviour, LineageStep
from store.tensors.changes import Figures

MOST = 10
"""Largest number of rows in a table."""
Change = TypeVar("Change", bound=Figures)


def shown(report: Difference) -> None:
    """Print what changed from one checkpoint to another."""
    sides = [f"{side.number} ({side.id[:12]})" for side in (report.from_, report.to)]
    out.print(f"from checkpoint {sides[0]} to {sides[1]}")
    if report.behaviours:
        _rates(report.behaviours)
    else:
        out.print("no behaviour was measured on both checkpoints")
    _readings(report)
    for verb, steps in (("without", report.removed), ("with", report.added)):
        for step in steps:
            _step(verb, step)
    if report.weights:
        _weights(report.weights)
    if report.note:
        out.print(report.note)


def _rates(rows: list[ComparedBehaviour]) -> None:
    table = Table(
        "behaviour", "passed, from", "to", "change", "flipped", "", title="pass rates on held-out scenarios"
    )
    for row in rows:
        notes = [] if row.same_scenarios else ["on different scenarios"]
        notes += [] if row.current else ["as defined at that time"]
        flipped = f"+{row.gained} -{row.lost}" if row.same_scenarios else ""
        name, change = behaviour_name(row.name, row.counter_of), points(row.before, row.after)
        table.add_row(name, rate(row.before), rate(row.after), change, flipped, ", ".join(notes))
    out.print(table)


def _readings(report: Difference) -> None:
    moves = ", ".join(f"{row.name} {row.move:+.2f}" for row in report.readings[:MOST])
    if moves:
        out.print(f"readings moved, in standard deviations: {moves}")
    else:
        out.print("the readings of both were not recorded")
    before, after = report.perplexity.before, report.perplexity.after
    if before and after:
        out.print(f"perplexity on ordinary text  {before:.3f} -> {after:.3f} ({after / before:.2f}x)")


def _step(verb: str, step: LineageStep) -> None:
    """Print one checkpoint between the two, with the pairs of the update that made it.

    Args:
        verb: First word of the line: "without" for an update that the second checkpoint lacks, else "with".
        step: The checkpoint and its update.
    """
    if step.pairs is None:
        out.print(f"{verb} checkpoint {step.checkpoint[:12]}, which was not made from pairs")
        return
    targets = f" for {', '.join(step.targets)}" if step.targets else ""
    out.print(
        f"{verb} update {step.update}{targets}: {len(step.pairs.new)} new pairs and {len(step.pairs.replay)} "
        f"of replay ({pair_counts(step.pairs)}); `nightschool ledger why {step.update}`",
    )
    located(step.moves)


def _weights(changes: WeightChanges) -> None:
    share, norm, relative = _cells(changes.whole)
    out.print(
        f"weights: {changes.whole.changed} of {changes.whole.elements} values changed ({share}); norm of the "
        f"change {norm}, relative to the weights {relative}"
    )
    if changes.whole.changed:
        layers = sorted(changes.layers, key=lambda row: -(row.relative or 0.0))
        _most("layer", layers, lambda row: "outside" if row.layer is None else str(row.layer))
        _most("kind of weight", changes.kinds, lambda row: row.kind)
        _most("head", changes.heads, lambda row: f"layer {row.layer}, {row.kind}, head {row.head}")
    if changes.only_in_one:
        names = ", ".join(changes.only_in_one[:4])
        out.print(f"not compared, because the checkpoints differ in their names or shapes: {names}")


def _most(heading: str, rows: Sequence[Change], name: Callable[[Change], str]) -> None:
    """Print a table of the first changes that are not zero.

    Args:
        heading: Heading of the column of names.
        rows: The changes, in the order of the table.
        name: Function that returns the name of a change.
    """
    changed = [row for row in rows if row.changed]
    if not changed:
        return
    table = Table(heading, "changed", "norm", "relative")
    for row in changed[:MOST]:
        table.add_row(name(row), *_cells(row))
    out.print(table)
    if len(changed) > MOST:
        out.print(f"and {len(changed) - MOST} more of {len(rows)} that changed less: see --json")


def _cells(change: Figures) -> tuple[str, str, str]:
    relative = "" if change.relative is None else f"{change.relative:.2e}"
    return f"{100 * change.share:.2f} %", f"{change.norm:.4g}", relative
