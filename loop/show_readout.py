"""What a person sees of readouts.

Invariant: as in `show.py`.
"""

from loop.show import Json, out


def trained(told: Json) -> None:
    out.print(f"{len(told['concepts'])} concepts, {told['texts']} texts, layers {told['layers']}", markup=False)
