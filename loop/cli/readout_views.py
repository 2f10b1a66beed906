"""The commands that look at readouts: the vectors' quality, a conversation's readings, the map of the concepts.

Invariant: as in `commands.py`.
"""

from pathlib import Path
from typing import Annotated

import typer

from corpus.aliases import Json
from corpus.errors import UsageError
from loop.cli import helpers
from loop.cli.app import options, readout

Out = Annotated[Path | None, typer.Option("--out", help="Also draw it, to a file that ends in .svg or .png.")]
Layer = Annotated[
    int | None, typer.Option(help="Number of the layer, from 0; default: the one that is monitored.")
]


@readout.command("report")
def readout_report(layer: Layer = None) -> None:
    """Whether each concept's vector is any good: quality.json and quality.md in the home's readout folder."""
    from loop.cli.show import quality

    helpers.show(helpers.perform("readout_report", layer=layer), quality.reported)


@readout.command("show")
def readout_show(
    what: Annotated[
        str | None,
        typer.Argument(metavar="[CONVERSATION_ID | FILE]", help="default: the conversation heard last"),
    ] = None,
    concepts: Annotated[
        str, typer.Option(help="Names, with commas between; default: those that swing most.")
    ] = "",
    out: Out = None,
    layer: Layer = None,
    number: Annotated[int, typer.Option(min=1, help="Which conversation of a file.")] = 1,
) -> None:
    """The readings of a conversation over its turns."""
    from agents.readout.plots import paint
    from loop.cli.show import timeline

    if out is not None:
        paint.check(out)
    wanted = [name.strip() for name in concepts.split(",") if name.strip()]
    name, turns, as_heard = _conversation(what, number)
    told = helpers.perform("readout_show", turns=turns, concepts=wanted, layer=layer)
    told = {"conversation": name, **told, "as_heard": as_heard, "written": None if out is None else str(out)}
    if out is not None:
        timeline.draw(told, out)
    helpers.show(told, timeline.shown)


@readout.command("map")
def readout_map(
    out: Annotated[Path, typer.Option("--out", help="The picture: a file that ends in .svg or .png.")],
    layer: Layer = None,
) -> None:
    """Where the concepts lie to each other: their vectors on a plane, coloured by cluster."""
    from loop.cli.show import timeline
    from store import home

    told = timeline.draw_map(home.find(options.home), out, layer)
    helpers.show(
        told, lambda value: typer.echo(f"drew {value['concepts']} concepts of layer {value['layer']}: {out}")
    )


def _conversation(what: str | None, number: int) -> tuple[str, list[dict[str, str]], list[Json]]:
    """A conversation's name and turns, and what nights have read of it: of a file, if there is one of this name, else
    out of the ledger."""
    from agents.ingest.peek import conversations_in
    from store.conversations.transcript import conversation
    from store.readings.readings import of_conversation

    if what is not None and Path(what).exists():
        found = conversations_in(Path(what))
        if number > len(found):
            raise UsageError(f"{what} has {len(found)} conversations: there is no number {number}")
        name = Path(what).name if len(found) == 1 else f"{Path(what).name}, number {number} of {len(found)}"
        return (
            name,
            [{"role": turn.role, "text": turn.text} for turn in found[number - 1].turns if turn.text.strip()],
            [],
        )
    kept = helpers.read(conversation, what)
    read = helpers.read(of_conversation, kept.id)
    return (
        f"conversation {kept.id}",
        [{"role": role, "text": text} for role, text in kept.turns if text.strip()],
        read,
    )
