"""What a person sees of readouts.

Invariant: as in `show.py`.
"""

from rich.table import Table

from loop.show import Json, out


def trained(told: Json) -> None:
    """The layers, how deep each lies, and whether held-out texts are told apart there."""
    named = f"{len(told['concepts'])} concepts of {told['corpus']!r}, {told['method']}, {told['texts']} texts"
    table = Table("layer", "relative depth", "held-out accuracy", title=f"{named} (chance {told['chance']:.1%})")
    for row in told["layers"]:
        table.add_row(str(row["layer"]), f"{row['depth']:.2f}", f"{row['accuracy']:.1%}")
    out.print(table)
    out.print(f"weights     {told['weights_version'][:12]} (checkpoint {told['checkpoint'][:12]})", markup=False)
    out.print(f"written to  {told['directory']}, in {told['seconds']:.0f} s", markup=False)
