"""The commands around readouts: concept vectors, made and looked at.

Invariant: as in `commands.py`.
"""

from typing import Annotated

import typer

from corpus.errors import UsageError
from loop.cli import helpers
from loop.cli.app import readout

ALL = "all"


@readout.command("train")
def readout_train(
    layers: Annotated[
        str | None,
        typer.Option(
            help="Numbers of layers, from 0, with commas between, or all; default: the one that is watched."
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="mean (difference of means), pca or ridge.")] = "mean",
    corpus: Annotated[
        str | None,
        typer.Option(help="world or states; default: world for the embedded model, states for any other."),
    ] = None,
    minimum: Annotated[
        int | None,
        typer.Option(min=1, help="Least texts of a concept; default: 12 of the world, 2 of a state."),
    ] = None,
) -> None:
    """Estimate the concept vectors on the active weights, and keep them in the home."""
    from loop.cli.show import readout as show_readout

    told = helpers.perform(
        "readout_train", layers=numbers(layers), method=method, corpus=corpus, minimum=minimum
    )
    helpers.show(told, show_readout.trained)


@readout.command("drift")
def readout_drift() -> None:
    """What every update did to the readings, and how far the vectors have drifted with the weights."""
    from loop.cli.show import readout as show_readout
    from loop.operations.readout_history import history

    helpers.show(helpers.read(history), show_readout.drifted)


def numbers(option: str | None) -> list[int] | str | None:
    """The layers that an option names; None where it is not given."""
    if option is None or option.strip() == ALL:
        return option and ALL
    try:
        return [int(part) for part in option.split(",")]
    except ValueError as fault:
        raise UsageError(
            f"--layers takes numbers with commas between, such as 2,3, or all: not {option!r}"
        ) from fault
