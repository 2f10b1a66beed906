"""The output of the `readout` commands on concept vectors, their quality and drift, and steering."""

from rich.table import Table

from corpus.json_edge import from_json
from loop.cli.show.console import out
from loop.operations.results.readouts import (
    BehaviourVector,
    Drift,
    PredictionCheck,
    SweepResult,
    Sweeps,
    TrainedVectors,
    UpdateDrift,
    VectorQuality,
    VectorsDrift,
)
from store.nights.results import PassCount
from store.readings.records import MovedReadings
from store.tensors.localize import Located

MOST = 4
"""Largest number of concepts, or of parts of the weights, that a line names."""
VERDICTS = {
    "raises": "{} raises the pass rate of {}",
    "lowers": "{} lowers the pass rate of {}",
    "no effect": "{} has no effect on {} beyond chance",
    "unclear": "{} has no single direction for {}: strengths of both signs change the pass rate alike",
}
CAME_TRUE = {"yes": "as predicted", "no": "not as predicted", "open": "not measured"}

# ---------------------------------------------------------------- vectors


def trained(report: TrainedVectors) -> None:
    """Print the depth of each layer, and the accuracy of its vectors on held-out texts."""
    title = (
        f"{len(report.concepts)} concepts of {report.corpus!r}, {report.method}, {report.texts} texts "
        f"(chance {report.chance:.1%})"
    )
    table = Table("layer", "relative depth", "held-out accuracy", title=title)
    for row in report.layers:
        table.add_row(str(row.layer), f"{row.depth:.2f}", f"{row.accuracy:.1%}")
    out.print(table)
    out.print(f"weights     {report.weights_version[:12]} (checkpoint {report.checkpoint[:12]})")
    out.print(f"written to  {report.directory}, in {report.seconds:.0f} s")


def quality(report: VectorQuality) -> None:
    """Print the quality of each concept's vector, and the path of the whole report."""
    table = Table("concept", "texts", "PC 1", "alignment", "found again", "neuron", "R²", "verdict")
    for name, concept in report.concepts.items():
        aligned = concept.alignments
        table.add_row(
            name,
            str(concept.texts),
            f"{concept.first_pc:.2f}",
            f"{sum(aligned) / len(aligned):.2f}" if aligned else "",
            "" if concept.accuracy is None else f"{concept.accuracy:.0%}",
            "" if concept.neuron is None else f"{abs(concept.neuron.cosine):.2f}",
            f"{concept.r2:.2f}",
            concept.verdict,
        )
    out.print(table)
    left_out = report.leave_one_out
    out.print(
        f"layer {report.layer} ({report.relative_depth:.0%} of the depth); leaving one story out, "
        f"{left_out.accuracy:.1%} are found again (by chance {left_out.by_chance:.1%})"
    )
    if not left_out.above_chance:
        out.print("that is no better than chance: these vectors say nothing", style="bold")
    if report.cohesion.gap is not None:
        out.print(
            f"members of a cluster are nearer to each other than to the rest by {report.cohesion.gap:.2f}"
        )
    for reason in report.skipped:
        out.print(f"skipped: {reason}")
    if report.weights_version != report.weights_sha256:
        out.print(
            "the vectors were estimated on other weights than those that are served: run "
            "`nightschool readout train` to renew them"
        )
    out.print(f"written: {report.written}", soft_wrap=True)


# ---------------------------------------------------------------- drift


def drifted(report: Drift) -> None:
    """Print how far each update moved the readings, and how far each version of the vectors changed."""
    if report.updates:
        _updates(report.updates)
    else:
        out.print("no update has made a candidate yet")
    if report.versions:
        _versions(report.versions)
    else:
        out.print(
            "there are no concept vectors yet: `nightschool readout train`, or the first update's night, "
            "estimates them"
        )
    out.print(f"read so far: {report.turns_read} turns, {report.attempts_read} attempts")


def _updates(rows: list[UpdateDrift]) -> None:
    title = "moves of the readings, in standard deviations over the probe set"
    table = Table("update", "state", "together", "moved most", title=title)
    for row in rows:
        order = sorted(row.moves, key=lambda name: (-abs(row.moves[name]), name))[:MOST]
        moves = ", ".join(f"{name} {row.moves[name]:+.2f}" for name in order) or "not read"
        table.add_row(row.update, row.state, "" if row.joint is None else f"{row.joint:.2f}", moves)
    out.print(table)


def _versions(rows: list[VectorsDrift]) -> None:
    table = Table("vectors", "night", "layer", "mean cosine", "furthest", title="versions of the vectors")
    for row in rows:
        mean = "" if row.mean_cosine is None else f"{row.mean_cosine:.4f}"
        furthest = f"{row.furthest} {row.cosines[row.furthest]:.4f}" if row.cosines and row.furthest else ""
        table.add_row(row.digest[:12], row.night_id or "by hand", str(row.layer), mean, furthest)
    out.print(table)


def located(moves: MovedReadings | None) -> None:
    """Print the parts of the weights that an update changed most, and the concepts along which they write."""
    if moves is None:
        return
    parts: Located = from_json(Located, moves.parts)
    counts = [
        ("layers", parts.layers.hold_most, parts.layers.parts),
        ("kinds", parts.kinds.hold_most, parts.kinds.parts),
        ("tensors", parts.tensors.hold_most, parts.tensors.parts),
        ("heads", parts.heads.hold_most, parts.heads.parts),
    ]
    held = ", ".join(f"{few} of {every} {name}" for name, few, every in counts if every)
    out.print(f"where it moved: {moves.verdict}; 80 % of the squared change is in {held}")
    tensors = [f"{part.tensor} {part.share:.0%}" for part in parts.tensors.first[:MOST]]
    heads = [
        f"layer {part.layer} {part.kind} head {part.head} {part.share:.0%}"
        for part in parts.heads.first[:MOST]
    ]
    for name, shares in (("tensors", tensors), ("heads", heads)):
        if shares:
            out.print(f"  {name}: {', '.join(shares)}")
    readings = ", ".join(f"{name} {move:+.2f}" for name, move in list(moves.readings.items())[:MOST])
    if readings:
        out.print(f"  against the readings: {readings}")
    for row in parts.along[:MOST]:
        out.print(f"  {row.tensor} writes along {row.concept}: {row.times_chance:.1f}x chance")


# ---------------------------------------------------------------- steering


def swept(report: Sweeps) -> None:
    """Print the pass rates at each strength and the verdict, for each behaviour of a sweep."""
    for sweep in report.sweeps:
        _sweep(sweep)


def behaviour(report: BehaviourVector) -> None:
    """Print the effect of steering by a behaviour's vector, and the predictions for the behaviour so far."""
    out.print(
        f"vector of {report.behaviour} from {report.attempts} attempts at {report.dreams} dreams, "
        f"after layer {report.layer}"
    )
    _sweep(report.sweep)
    predictions(report.predictions)


def predictions(rows: list[PredictionCheck]) -> None:
    """Print predictions, each with the updates that trained the behaviour later and whether it came true."""
    for row in rows:
        out.print(
            f"predicted for {row.behaviour} at {row.checkpoint_id[:12]} ({row.at[:16]}): {row.said}",
        )
        for update in row.updates:
            outcome = CAME_TRUE[update.came_true]
            rates = f"{_count(update.before)} -> {_count(update.after)}"
            out.print(f"  update {update.id} ({update.state}): {rates}, {outcome}")
        if not row.updates:
            out.print("  no later update trained it")


def _count(count: PassCount | None) -> str:
    return f"{count.passed}/{count.trials}" if count else "not measured"


def _sweep(sweep: SweepResult) -> None:
    title = f"{sweep.behaviour} steered by {sweep.concept} after layer {sweep.layer}"
    table = Table("strength", "passed", "95 %", "gained/lost", "p", "perplexity", title=title)
    for row in sweep.strengths:
        table.add_row(
            f"{row.strength:+g}" if row.strength else "0",
            f"{row.passed}/{row.trials}",
            f"{100 * row.low:.0f}-{100 * row.high:.0f} %",
            f"{row.gained}/{row.lost}" if row.strength else "",
            f"{row.p:.2g}" if row.strength else "",
            f"{row.perplexity:.3f}" + (" broken" if row.broken else ""),
        )
    out.print(table)
    out.print(VERDICTS[sweep.verdict].format(sweep.concept, sweep.behaviour))
    out.print(f"  slope {100 * sweep.slope:+.3f} points a unit; {'; '.join(sweep.reasons)}")
