"""The commands on readouts: concept vectors, their quality, readings of conversations, and steering."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corpus.errors import UsageError
from loop.cli import helpers
from loop.cli.helpers import Seed, options
from loop.cli.model import parse_finite

if TYPE_CHECKING:
    from store.readings.records import ConversationReading

readout = typer.Typer(
    help="Concept vectors, and what they read in the residual stream.", no_args_is_help=True
)

ALL = "all"

Out = Annotated[Path | None, typer.Option("--out", help="Also draw the readings, to this .svg or .png file.")]
Layer = Annotated[int | None, typer.Option(help="Number of the layer, from 0; default: the monitored one.")]


@readout.command("train")
def readout_train(
    layers: Annotated[
        str | None,
        typer.Option(
            help="Numbers of layers, from 0, separated by commas, or all; default: the monitored one."
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="Method of estimation: mean (difference of means), pca or ridge.")
    ] = "mean",
    corpus: Annotated[
        str | None,
        typer.Option(
            help="Texts to use: world or states; default: world for the embedded model, states for any other."
        ),
    ] = None,
    minimum: Annotated[
        int | None,
        typer.Option(
            min=1, help="Fewest texts that each concept must have; default: 12 for world, 2 for states."
        ),
    ] = None,
) -> None:
    """Estimate the concept vectors on the active weights.

    The new vectors replace the home's present ones.
    """
    from loop.cli.show import readout as show_readout
    from loop.operations.operations import Operations

    result = helpers.perform(
        Operations.readout_train, layers=_layers(layers), method=method, corpus=corpus, minimum=minimum
    )
    helpers.show(result, show_readout.trained)


@readout.command("drift")
def readout_drift() -> None:
    """Show how readings and concept vectors have changed.

    The command shows how far each update moved the readings, and how far the vectors changed from one
    estimate to the next.
    """
    from loop.cli.show import readout as show_readout
    from loop.operations.readout_drift import drift

    helpers.show(helpers.read(drift), show_readout.drifted)


@readout.command("report")
def readout_report(layer: Layer = None) -> None:
    """Test the quality of each concept's vector.

    The command writes quality.json and quality.md to the home's readout folder.
    """
    from loop.cli.show import readout as show_readout
    from loop.operations.operations import Operations

    helpers.show(helpers.perform(Operations.readout_report, layer=layer), show_readout.quality)


@readout.command("show")
def readout_show(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[CONVERSATION_ID | FILE]",
            help="a conversation's id, or a log file; default: the conversation read last",
        ),
    ] = None,
    concepts: Annotated[
        str, typer.Option(help="Names of concepts, separated by commas; default: those that move most.")
    ] = "",
    out: Out = None,
    layer: Layer = None,
    number: Annotated[int, typer.Option(min=1, help="Number of the conversation in a log file.")] = 1,
) -> None:
    """Show a conversation's readings, turn by turn."""
    from agents.readout.plots import paint
    from loop.cli.show import timeline
    from loop.operations.operations import Operations
    from loop.operations.results.readouts import ConversationReadings

    if out is not None:
        paint.check(out)
    wanted = [name.strip() for name in concepts.split(",") if name.strip()]
    name, turns, as_heard = _conversation(what, number)
    readings = helpers.perform(Operations.readout_show, turns=turns, concepts=wanted, layer=layer)
    result = ConversationReadings(
        conversation=name,
        **vars(readings),
        as_heard=as_heard,
        written=None if out is None else str(out),
    )
    if out is not None:
        timeline.draw(result, out)
    helpers.show(result, timeline.shown)


@readout.command("map")
def readout_map(
    out: Annotated[Path, typer.Option("--out", help="Draw the map to this .svg or .png file.")],
    layer: Layer = None,
) -> None:
    """Draw a map of the concepts.

    The concept vectors are projected on a plane. Each cluster of concepts has a colour.
    """
    from loop.cli.show import timeline
    from store import home

    result = timeline.draw_map(home.find(options.home), out, layer)
    helpers.show(
        result,
        lambda drawn: helpers.echo(f"drew {drawn.concepts} concepts of layer {drawn.layer}: {out}"),
    )


@readout.command("sweep")
def readout_sweep(
    concept: Annotated[str, typer.Argument(help="a concept, or a behaviour that has a vector")],
    behaviour: Annotated[
        list[str] | None,
        typer.Option(
            help="Behaviour to measure; may be repeated; default: the one that the concept belongs to."
        ),
    ] = None,
    strengths: Annotated[
        str,
        typer.Option(
            help="Strengths, separated by commas, such as -4,-2,2,4; default: suited to the residual stream."
        ),
    ] = "",
    seed: Seed = None,
) -> None:
    """Measure pass rates at several strengths of steering.

    This shows, before any training, whether steering by a concept changes a behaviour.
    """
    from loop.cli.show import readout as show_readout
    from loop.operations.operations import Operations

    result = helpers.perform(
        Operations.readout_sweep,
        concept=concept,
        behaviours=behaviour or [],
        strengths=_strengths(strengths),
        seed=seed,
    )
    helpers.show(result, show_readout.swept)


@readout.command("behaviour")
def readout_behaviour(
    name: Annotated[str, typer.Argument(help="a behaviour that has dreams")],
    seed: Seed = None,
) -> None:
    """Predict by steering what training a behaviour will do.

    The command estimates the behaviour's own vector from attempts at its dreams, and steers by this vector.
    The result is recorded as a prediction, and compared with later updates.
    """
    from loop.cli.show import readout as show_readout
    from loop.operations.operations import Operations

    result = helpers.perform(Operations.readout_behaviour, behaviour=name, seed=seed)
    helpers.show(result, show_readout.behaviour)


def _layers(option: str | None) -> list[int] | str | None:
    """Return the value of --layers: numbers, "all", or None if the option is not given."""
    if option is None or option.strip() == ALL:
        return option and ALL
    try:
        return [int(part) for part in option.split(",")]
    except ValueError as fault:
        raise UsageError(
            f"--layers takes numbers separated by commas, such as 2,3, or all: not {option!r}"
        ) from fault


def _strengths(option: str) -> list[float] | None:
    """Return the numbers in the value of --strengths; None if it is empty."""
    if not option.strip():
        return None
    try:
        return [parse_finite(part) for part in option.split(",")]
    except ValueError as fault:
        raise UsageError(
            f"--strengths takes numbers separated by commas, such as -4,-2,2,4: not {option!r}"
        ) from fault


def _conversation(
    what: str | None, number: int
) -> "tuple[str, list[dict[str, str]], list[ConversationReading]]":
    """Return a conversation's name, its turns, and the readings that nights have recorded of it.

    Args:
        what: A log file, or the id of a conversation in the ledger; None for the conversation read last.
        number: Number of the conversation in a log file, from 1.
    """
    from agents.ingest.peek import conversations_in
    from store import queries
    from store.readings.readings import of_conversation

    if what is not None and Path(what).exists():
        in_file = conversations_in(Path(what))
        if number > len(in_file):
            raise UsageError(f"{what} has {len(in_file)} conversations: there is no number {number}")
        name = (
            Path(what).name if len(in_file) == 1 else f"{Path(what).name}, number {number} of {len(in_file)}"
        )
        turns = [
            {"role": turn.role, "text": turn.text} for turn in in_file[number - 1].turns if turn.text.strip()
        ]
        return name, turns, []
    stored = helpers.read(queries.conversation_named, what)
    stored_turns = helpers.read(queries.turns, stored.id)
    turns = [{"role": turn.role, "text": turn.text} for turn in stored_turns if turn.text.strip()]
    return f"conversation {stored.id}", turns, helpers.read(of_conversation, stored.id)
