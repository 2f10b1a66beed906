"""The output of `checkpoints diff`: tables cut to what moved most; --json has every row."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from rich.table import Table

from loop.cli.show.checkpoints import pair_counts
from loop.cli.show.console import behaviour_name, out, points, rate
from loop.cli.show.readout import located
from loop.operations.results.checkpoints import Difference, WeightChanges
from store.nights.results import ComparedBehaviour, LineageStep
from store.tensors.changes import Figures

MOST = 10
"""Rows of a table of heads or layers."""
Change = TypeVar("Change", bound=Figures)


def shown(report: Difference) -> None:
    """Print what changed from one checkpoint to another."""
    sides = [f"{side.number} ({side.id[:12]})" for side in (report.from_, report.to)]
    out.print(f"from checkpoint {sides[0]} to {sides[1]}")
    if report.behaviours:
        _rates(report.behaviours)
    else:
        out.print("no behaviour was measured on both")
    _readings(report)
    for verb, steps in (("without", report.removed), ("with", report.added)):
        for step in steps:
            _step(verb, step)
    if report.weights:
        _weights(report.weights)
    if report.note:
        out.print(report.note, markup=False)


def _rates(rows: list[ComparedBehaviour]) -> None:
    table = Table(
        "behaviour", "passed, from", "to", "change", "turned", "", title="pass rates on held-out scenarios"
    )
    for row in rows:
        notes = [] if row.same_scenarios else ["on different scenarios"]
        notes += [] if row.current else ["as it was defined then"]
        turned = f"+{row.gained} -{row.lost}" if row.same_scenarios else ""
        name, change = behaviour_name(row.name, row.counter_of), points(row.before, row.after)
        table.add_row(name, rate(row.before), rate(row.after), change, turned, ", ".join(notes))
    out.print(table)


def _readings(report: Difference) -> None:
    moves = ", ".join(f"{row.name} {row.move:+.2f}" for row in report.readings[:MOST])
    if moves:
        out.print(f"readings moved, in standard deviations: {moves}")
    else:
        out.print("readings were not taken of both")
    before, after = report.perplexity.before, report.perplexity.after
    if before and after:
        out.print(f"perplexity on ordinary text  {before:.3f} -> {after:.3f} ({after / before:.2f}x)")


def _step(verb: str, step: LineageStep) -> None:
    """Print one checkpoint on the way, and the pairs of the update that made it."""
    if step.pairs is None:
        out.print(f"{verb} checkpoint {step.checkpoint[:12]}, which no pairs made", markup=False)
        return
    targets = f" for {', '.join(step.targets)}" if step.targets else ""
    out.print(
        f"{verb} update {step.update}{targets}: {len(step.pairs.new)} new pairs and {len(step.pairs.replay)} "
        f"of replay ({pair_counts(step.pairs)}); `nightschool ledger why {step.update}`",
        markup=False,
    )
    located(step.moves)


def _weights(changes: WeightChanges) -> None:
    share, norm, relative = _cells(changes.whole)
    out.print(
        f"weights: {changes.whole.changed} of {changes.whole.elements} values changed ({share}), by {norm} in "
        f"norm ({relative} of theirs)"
    )
    if changes.whole.changed:
        layers = sorted(changes.layers, key=lambda row: -(row.relative or 0.0))
        _most("layer", layers, lambda row: "outside" if row.layer is None else str(row.layer))
        _most("kind of weight", changes.kinds, lambda row: row.kind)
        _most("head", changes.heads, lambda row: f"layer {row.layer}, {row.kind}, head {row.head}")
    if changes.only_in_one:
        names = ", ".join(changes.only_in_one[:4])
        out.print(f"not compared, because only one has it in this form: {names}", markup=False)


def _most(heading: str, rows: Sequence[Change], name: Callable[[Change], str]) -> None:
    """Print the first of the rows that moved at all."""
    moved = [row for row in rows if row.changed]
    if not moved:
        return
    table = Table(heading, "changed", "norm", "relative")
    for row in moved[:MOST]:
        table.add_row(name(row), *_cells(row))
    out.print(table)
    if len(moved) > MOST:
        out.print(f"and {len(moved) - MOST} more that moved less, of {len(rows)}: see --json")


def _cells(change: Figures) -> tuple[str, str, str]:
    relative = "" if change.relative is None else f"{change.relative:.2e}"
    return f"{100 * change.share:.2f} %", f"{change.norm:.4g}", relative
