"""What a person sees of task vectors.

Invariant: as in `show.py`.
"""

from rich.table import Table

from corpus.aliases import Json
from loop.cli.show.everyday import out


def vector(told: Json) -> None:
    updates = ", ".join(told["updates"])
    out.print(f"from {told['from'][:12]} to {told['to'][:12]}: what {updates} added")
    _figures(told)
    if told["out"]:
        out.print(f"written to {told['out']}", markup=False)


def merge(told: Json) -> None:
    """A dry run of a merge."""
    table = Table("weight", "from", "to", "updates", title=f"merge by {told['method']}")
    for part in told["parts"]:
        table.add_row(f"{part['weight']:g}", part["start"][:12], part["end"][:12], ", ".join(part["updates"]))
    out.print(table)
    out.print(f"meant to rise: {', '.join(told['rise']) or 'nothing'}")
    out.print(f"meant to fall: {', '.join(told['unlearn']) or 'nothing'}")
    out.print(
        f"pairs: {told['pairs']['learnt']} would count as learnt, {told['pairs']['unlearnt']} as unlearnt"
    )
    _figures(told)
    for reason in told["reasons"]:
        out.print(reason, markup=False)
    out.print(f"a dry run onto checkpoint {told['checkpoint'][:12]}: nothing was changed")


def _figures(told: Json) -> None:
    """Norm and share of what changes, by kind of weight."""
    table = Table("kind of weight", "norm", "changed", "elements")
    for row in [*told["kinds"], {"kind": "all", **told}]:
        share = f"{row['changed'] / row['elements']:.2%}" if row["elements"] else ""
        table.add_row(row["kind"], f"{row['norm']:.4g}", share, str(row["elements"]))
    out.print(table)
