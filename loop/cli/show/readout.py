"""What a person sees of readouts.

Invariant: as in `show.py`.
"""

from rich.table import Table

from corpus.aliases import Json
from loop.cli.show.everyday import out


def trained(told: Json) -> None:
    """The layers, how deep each lies, and whether held-out texts are told apart there."""
    named = f"{len(told['concepts'])} concepts of {told['corpus']!r}, {told['method']}, {told['texts']} texts"
    table = Table(
        "layer", "relative depth", "held-out accuracy", title=f"{named} (chance {told['chance']:.1%})"
    )
    for row in told["layers"]:
        table.add_row(str(row["layer"]), f"{row['depth']:.2f}", f"{row['accuracy']:.1%}")
    out.print(table)
    out.print(
        f"weights     {told['weights_version'][:12]} (checkpoint {told['checkpoint'][:12]})", markup=False
    )
    out.print(f"written to  {told['directory']}, in {told['seconds']:.0f} s", markup=False)


MOST = 4
"""Concepts that are named in a line."""


def drifted(told: Json) -> None:
    """A line an update, a line a version of the vectors."""
    if told["updates"]:
        table = Table(
            "update", "state", "together", "moved most", title="readings, in spreads over the panel"
        )
        for row in told["updates"]:
            order = sorted(row["moves"], key=lambda name: (-abs(row["moves"][name]), name))[:MOST]
            named = ", ".join(f"{name} {row['moves'][name]:+.2f}" for name in order) or "they were not read"
            joint = "" if row["joint"] is None else f"{row['joint']:.2f}"
            table.add_row(row["update"], row["state"], joint, named)
        out.print(table)
    else:
        out.print("no update has come to a candidate yet")
    if told["versions"]:
        table = Table("vectors", "night", "layer", "mean cosine", "furthest", title="versions of the vectors")
        for row in told["versions"]:
            mean = "" if row["mean_cosine"] is None else f"{row['mean_cosine']:.4f}"
            far = (
                "" if row["furthest"] is None else f"{row['furthest']} {row['cosines'][row['furthest']]:.4f}"
            )
            table.add_row(row["digest"][:12], row["night_id"] or "by hand", str(row["layer"]), mean, far)
        out.print(table)
    else:
        out.print(
            "there are no concept vectors yet: `nightschool readout train`, or the first update's night"
        )
    out.print(f"read so far: {told['turns_read']} turns, {told['attempts_read']} attempts")


def located(told: Json | None) -> None:
    """Where an update lies in the weights."""
    if told is None:
        return
    parts = told["parts"]
    held = ", ".join(
        f"{row['hold_most']} of {row['parts']} {name}" for name, row in _groups(parts) if row["parts"]
    )
    out.print(f"where it moved: {told['verdict']}; 80 % of the squared change is in {held}")
    for name, row in _groups(parts):
        if row["first"] and name in ("tensors", "heads"):
            first = ", ".join(f"{_part(part)} {part['share']:.0%}" for part in row["first"][:MOST])
            out.print(f"  {name}: {first}", markup=False)
    moves = ", ".join(f"{name} {move:+.2f}" for name, move in list(told["readings"].items())[:MOST])
    if moves:
        out.print(f"  against the readings: {moves}", markup=False)
    for row in parts["along"][:MOST]:
        out.print(
            f"  {row['tensor']} writes along {row['concept']}: {row['times_chance']:.1f}x chance",
            markup=False,
        )


def _groups(parts: Json) -> list[tuple[str, Json]]:
    return [(name, parts[name]) for name in ("layers", "kinds", "tensors", "heads")]


def _part(part: Json) -> str:
    return part["tensor"] if "tensor" in part else f"layer {part['layer']} {part['kind']} head {part['head']}"
