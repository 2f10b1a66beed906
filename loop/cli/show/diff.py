"""What a person sees of the difference between two checkpoints.

Invariant: as in `show.py`. Tables are cut to what moved most; --json has every row.
"""

from collections.abc import Callable
from typing import Any

from rich.table import Table

from corpus.aliases import Json
from loop.cli.show.checkpoints import counted
from loop.cli.show.console import out, rate
from loop.cli.show.readout import located

MOST = 10
"""Rows that a table of heads or layers shows."""


def shown(told: Json) -> None:
    sides = [f"{told[side]['number']} ({told[side]['id'][:12]})" for side in ("from", "to")]
    out.print(f"from checkpoint {sides[0]} to {sides[1]}")
    if told["behaviours"]:
        _rates(told["behaviours"])
    else:
        out.print("no behaviour was measured on both")
    _readings(told)
    _way(told)
    if told["weights"]:
        _weights(told["weights"])
    if told["note"]:
        out.print(told["note"], markup=False)


def _rates(rows: list[Json]) -> None:
    table = Table(
        "behaviour", "passed, from", "to", "change", "turned", "", title="pass rates on held-out scenarios"
    )
    for row in rows:
        before, after = row["before"], row["after"]
        points = 100 * (after["passed"] / after["trials"] - before["passed"] / before["trials"])
        notes = [] if row["same_scenarios"] else ["on different scenarios"]
        notes += [] if row["current"] else ["as it was defined then"]
        turned = f"+{row['gained']} -{row['lost']}" if row["same_scenarios"] else ""
        name = f"  guards: {row['name']}" if row["counter_of"] else row["name"]
        table.add_row(name, rate(before), rate(after), f"{points:+.0f} points", turned, ", ".join(notes))
    out.print(table)


def _readings(told: Json) -> None:
    moves = ", ".join(f"{row['name']} {row['move']:+.2f}" for row in told["readings"][:MOST])
    out.print(f"readings moved, in spreads: {moves}" if moves else "readings were not taken of both")
    before, after = told["perplexity"]["before"], told["perplexity"]["after"]
    if before and after:
        out.print(f"perplexity on ordinary text  {before:.3f} -> {after:.3f} ({after / before:.2f}x)")


def _way(told: Json) -> None:
    """Which updates lie between, and their pairs."""
    for key, verb in (("removed", "without"), ("added", "with")):
        for step in told[key]:
            if step["pairs"] is None:
                out.print(f"{verb} checkpoint {step['checkpoint'][:12]}, which no pairs made", markup=False)
                continue
            new, replay = len(step["pairs"]["new"]), len(step["pairs"]["replay"])
            aim = f" for {', '.join(step['targets'])}" if step["targets"] else ""
            out.print(
                f"{verb} update {step['update']}{aim}: {new} new pairs and {replay} of replay "
                f"({counted(step['pairs'])}); `nightschool ledger why {step['update']}`",
                markup=False,
            )
            located(step["moves"])


def _weights(told: Json) -> None:
    out.print(f"weights: {_said(told['whole'])}")
    if told["whole"]["changed"]:
        _most("layer", sorted(told["layers"], key=_relative), lambda row: row["layer"])
        _most("kind of weight", told["kinds"], lambda row: row["kind"])
        _most("head", told["heads"], lambda row: f"layer {row['layer']}, {row['kind']}, head {row['head']}")
    if told["only_in_one"]:
        out.print(f"not compared, for only one has it so: {', '.join(told['only_in_one'][:4])}", markup=False)


def _most(heading: str, rows: list[Json], name: Callable[[Json], Any]) -> None:
    """The first of the rows that moved at all."""
    moved = [row for row in rows if row["changed"]]
    if not moved:
        return
    table = Table(heading, "changed", "norm", "relative")
    for row in moved[:MOST]:
        table.add_row("outside" if name(row) is None else str(name(row)), *_cells(row))
    out.print(table)
    if len(moved) > MOST:
        out.print(f"and {len(moved) - MOST} more that moved less, of {len(rows)}: see --json")


def _relative(row: Json) -> float:
    return -(row["relative"] or 0.0)


def _cells(row: Json) -> tuple[str, str, str]:
    relative = "" if row["relative"] is None else f"{row['relative']:.2e}"
    return f"{100 * row['share']:.2f} %", f"{row['norm']:.4g}", relative


def _said(row: Json) -> str:
    share, norm, relative = _cells(row)
    return f"{row['changed']} of {row['elements']} values changed ({share}), by {norm} in norm ({relative} of theirs)"
