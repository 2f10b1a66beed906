"""What a person sees of readouts.

Invariant: as in `show.py`.
"""

from rich.table import Table

from corpus.aliases import Json
from loop.cli.show.console import out


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


def quality(told: Json) -> None:
    """The summary of a report."""
    table = Table("concept", "texts", "PC 1", "aligned", "found", "neuron", "R\u00b2", "verdict")
    for name, found in told["concepts"].items():
        known = [one["alignment"] for one in found["alignment"] if one["alignment"] is not None]
        table.add_row(
            name,
            str(found["texts"]),
            f"{found['first_pc']:.2f}",
            f"{sum(known) / len(known):.2f}" if known else "",
            "" if found["accuracy"] is None else f"{found['accuracy']:.0%}",
            "" if found["neuron"] is None else f"{abs(found['neuron']['cosine']):.2f}",
            f"{found['r2']:.2f}",
            found["verdict"],
        )
    out.print(table)
    apart = told["leave_one_out"]
    out.print(
        f"layer {told['layer']} ({told['relative_depth']:.0%} of the depth); leaving one story out, "
        f"{apart['accuracy']:.1%} are found again (by chance {apart['by_chance']:.1%})"
    )
    if not apart["above_chance"]:
        out.print("that is no better than chance: these vectors say nothing", style="bold")
    if told["cohesion"]["gap"] is not None:
        out.print(
            f"members of a cluster are nearer to each other than to the rest by {told['cohesion']['gap']:.2f}"
        )
    for reason in told["skipped"]:
        out.print(f"skipped: {reason}", markup=False)
    if told["weights_version"] != told["weights_sha256"]:
        out.print(
            "the vectors were estimated on other weights than are served: `nightschool readout train` renews them"
        )
    out.print(f"written: {told['written']}", markup=False, soft_wrap=True)


MEANS = {
    "raises": "{} raises the pass rate of {}",
    "lowers": "{} lowers the pass rate of {}",
    "no effect": "{} has no effect on {} that chance does not explain",
    "unclear": "{} has no one direction for {}: both ways change the pass rate alike",
}


def swept(told: Json) -> None:
    """A table for each behaviour, and the verdict under it."""
    for sweep in told["sweeps"]:
        _sweep(sweep)


def behaviour(told: Json) -> None:
    out.print(
        f"vector of {told['behaviour']} from {told['attempts']} attempts at {told['dreams']} dreams, after layer "
        f"{told['layer']}"
    )
    _sweep(told["sweep"])
    foretold(told["predictions"])


def foretold(predictions: list[Json]) -> None:
    """Predictions beside what training then did."""
    for one in predictions:
        out.print(
            f"predicted of {one['behaviour']} at {one['checkpoint_id'][:12]} ({one['at'][:16]}): {one['said']}",
            markup=False,
        )
        for update in one["updates"]:
            rates = " -> ".join(_side(update[side]) for side in ("before", "after"))
            outcome = _CAME_TRUE[update["came_true"]]
            out.print(f"  update {update['id']} ({update['state']}): {rates}, {outcome}", markup=False)
        if not one["updates"]:
            out.print("  no update has trained it since")


_CAME_TRUE = {"yes": "as predicted", "no": "not as predicted", "open": "not measured"}


def _side(side: Json | None) -> str:
    return f"{side['passed']}/{side['trials']}" if side else "not measured"


def _sweep(sweep: Json) -> None:
    title = f"{sweep['behaviour']} steered by {sweep['concept']} after layer {sweep['layer']}"
    table = Table("strength", "passed", "95 %", "gained/lost", "p", "perplexity", title=title)
    for row in sweep["strengths"]:
        table.add_row(
            f"{row['strength']:+g}" if row["strength"] else "0",
            f"{row['passed']}/{row['trials']}",
            f"{100 * row['low']:.0f}-{100 * row['high']:.0f} %",
            f"{row['gained']}/{row['lost']}" if row["strength"] else "",
            f"{row['p']:.2g}" if row["strength"] else "",
            f"{row['perplexity']:.3f}" + (" broken" if row["broken"] else ""),
        )
    out.print(table)
    out.print(MEANS[sweep["verdict"]].format(sweep["concept"], sweep["behaviour"]), markup=False)
    out.print(
        f"  slope {100 * sweep['slope']:+.3f} points a unit; {'; '.join(sweep['reasons'])}", markup=False
    )
