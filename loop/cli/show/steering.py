"""What a person sees of steering.

Invariant: as in `show.py`.
"""

from rich.table import Table

from corpus.aliases import Json
from loop.cli.show.everyday import out

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
