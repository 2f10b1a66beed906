"""The commands around the served model: ask it, and build the embedded one."""

from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from corpus.errors import UsageError
from loop.cli import helpers

commands = typer.Typer()
model = typer.Typer(help="The embedded model.", no_args_is_help=True)


@commands.command()
def ask(
    text: str,
    steer: Annotated[
        list[str] | None,
        typer.Option(metavar="CONCEPT=STRENGTH", help="Steer by a concept; may be repeated."),
    ] = None,
) -> None:
    """Ask the served model."""
    from loop.operations.operations import Operations

    strengths = steering(steer) if steer else None
    result = helpers.perform(Operations.ask, text=text, steer=strengths)
    helpers.show(result, lambda answer: typer.echo(answer.answer))


@model.command("build")
def model_build(
    out: Annotated[Path, typer.Argument(help="a folder for config, tokenizer and safetensors")],
    seed: int = 0,
    steps: Annotated[int | None, typer.Option(help="Training steps; default: the recipe's.")] = None,
) -> None:
    """Train the embedded model from its recipe: a few minutes on 2 cores."""
    from corpus import recipe
    from loop.cli.show.console import progress

    with progress() as listener:
        total = steps or recipe.STEPS
        recipe.build(
            out, seed=seed, steps=total, on_step=lambda step, _: listener("build", str(out), step + 1, total)
        )
    helpers.show({"model": str(out)}, lambda _: typer.echo(f"built {out}"))


def steering(options: list[str]) -> dict[str, float]:
    """Return the strength of each concept that a `--steer CONCEPT=STRENGTH` names."""
    strengths: dict[str, float] = {}
    for option in options:
        concept, equals, strength = option.rpartition("=")
        try:
            if not equals or not concept or concept in strengths:
                raise ValueError
            strengths[concept] = finite(strength)
        except ValueError as fault:
            raise UsageError(
                f"--steer takes CONCEPT=STRENGTH, each concept once, such as asking=4: not {option!r}"
            ) from fault
    return strengths


def finite(text: str) -> float:
    """Parse a finite number.

    Raises:
        ValueError: The text is no number, or not a finite one.
    """
    if not isfinite(number := float(text)):
        raise ValueError(text)
    return number
