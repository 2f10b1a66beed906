"""What a person sees of a quality report: one line a concept, and where the whole of it lies.

Invariant: as in `show.py`.
"""

from rich.table import Table

from corpus.aliases import Json
from loop.cli.show.everyday import out


def reported(told: Json) -> None:
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
