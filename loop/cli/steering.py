"""The commands around steering: what a concept, or a behaviour's own vector, does to what the model does.

Invariant: as in `commands.py`.
"""

from math import isfinite
from typing import Annotated

import typer

from corpus.errors import UsageError
from loop.cli import helpers
from loop.cli.app import readout


@readout.command("sweep")
def readout_sweep(
    concept: Annotated[str, typer.Argument(help="a concept, or a behaviour that has a vector")],
    behaviour: Annotated[
        list[str] | None,
        typer.Option(help="Whose pass rate; may be repeated. Default: the one it belongs to."),
    ] = None,
    strengths: Annotated[
        str,
        typer.Option(help="With commas between, such as -4,-2,2,4; default: shares of the stream's length."),
    ] = "",
    seed: Annotated[int | None, typer.Option(help="As in `night`.")] = None,
) -> None:
    """Strength of steering against pass rate: is this the right direction, before any training is spent?"""
    from loop.cli.show import steering as show_steering

    told = helpers.perform(
        "readout_sweep", concept=concept, behaviours=behaviour or [], strengths=numbers(strengths), seed=seed
    )
    helpers.show(told, show_steering.swept)


@readout.command("behaviour")
def readout_behaviour(
    name: Annotated[str, typer.Argument(help="a behaviour that was dreamt of")],
    seed: Annotated[int | None, typer.Option(help="As in `night`.")] = None,
) -> None:
    """A behaviour's own vector from its dreams, what steering by it does, and what training did then."""
    from loop.cli.show import steering as show_steering

    helpers.show(helpers.perform("readout_behaviour", behaviour=name, seed=seed), show_steering.behaviour)


def numbers(text: str) -> list[float] | None:
    """Strengths with commas between; None for none."""
    if not text.strip():
        return None
    try:
        return [_finite(part) for part in text.split(",")]
    except ValueError as fault:
        raise UsageError(
            f"--strengths takes numbers with commas between, such as -4,-2,2,4: not {text!r}"
        ) from fault


def _finite(text: str) -> float:
    """The number; `ValueError` for what is none, or is not finite."""
    if not isfinite(number := float(text)):
        raise ValueError(text)
    return number


def steering(given: list[str]) -> dict[str, float]:
    """What `--steer CONCEPT=STRENGTH` names, repeated or not."""
    found = {}
    for one in given:
        concept, equals, strength = one.rpartition("=")
        try:
            if not equals or not concept or concept in found:
                raise ValueError
            found[concept] = _finite(strength)
        except ValueError as fault:
            raise UsageError(
                f"--steer takes CONCEPT=STRENGTH, each concept once, such as asking=4: not {one!r}"
            ) from fault
    return found
