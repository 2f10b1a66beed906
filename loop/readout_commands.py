"""The commands around readouts: concept vectors, made and looked at.

Invariant: as in `commands.py`.
"""

from typing import Annotated

import typer

from corpus.errors import UsageError
from loop import carry
from loop.cli import readout

ALL = "all"


@readout.command("train")
def readout_train(
    layers: Annotated[str, typer.Option(help="Numbers of layers, from 0, with commas between; or all.")] = ALL,
    method: Annotated[str, typer.Option(help="mean, pca or ridge.")] = "mean",
    corpus: Annotated[str | None, typer.Option(help="world or states; default: what suits the model.")] = None,
    minimum: Annotated[int | None, typer.Option(min=1, help="Texts that each concept must have.")] = None,
) -> None:
    """Estimate the concept vectors on the active weights, and keep them in the home."""
    from loop import show_readout

    told = carry.perform("readout_train", layers=numbers(layers), method=method, corpus=corpus, minimum=minimum)
    carry.show(told, show_readout.trained)


def numbers(layers: str) -> list[int] | None:
    """The layers that an option names, or None for all of them."""
    if layers.strip() == ALL:
        return None
    try:
        return [int(part) for part in layers.split(",")]
    except ValueError as fault:
        raise UsageError(f"--layers takes numbers with commas between, such as 2,3, or all: not {layers!r}") from fault
