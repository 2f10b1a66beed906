"""What a person sees of readings: a line for each concept on the terminal, and the same as a picture.

Invariant: as in `show.py`. Each line fits 80 columns and tells its course without colour: by the height of its bars,
all on one scale.
"""

from pathlib import Path

from rich.text import Text

from agents.readout.plots import concept_map, paint, timeline
from agents.readout.plots.picture import printable
from agents.readout.plots.timeline import Timeline
from agents.readout.quality.examiner import choose_layer, clusters_of, stored_vectors
from corpus.aliases import Json
from loop.cli.show.console import out
from store.home import Home

MOST_CONCEPTS = 16
"""Concepts that are shown where none is named."""
MOST_COLUMNS, DOUBLE = 34, 17
"""Columns of the bars on a terminal; so few that each can be two letters wide."""
NAME = 22
"""Letters of a concept's name."""
WIDTH = 80
BARS = "▁▂▃▄▅▆▇█"
PLAIN = "12345678"
"""The same for a terminal that knows no bars."""
LISTED = 12
"""Turns whose words are printed."""


def timeline_of(told: Json) -> Timeline:
    """The readings in a command's JSON, those of the concepts that were named, else of those that swing most."""
    import numpy as np

    names = tuple(told["concepts"])
    whole = Timeline(
        name=told["conversation"],
        concepts=names,
        roles=tuple(turn["role"] for turn in told["turns"]),
        texts=tuple(turn["text"] for turn in told["turns"]),
        values=np.array([[turn["readings"][name] for name in names] for turn in told["turns"]]),
        layer=told["layer"],
        window=told["window"],
        baseline=f"the {told['baseline']['texts']} texts behind the vectors",
    )
    return timeline.choose_concepts(whole, names if told["named"] else (), MOST_CONCEPTS)


def draw(told: Json, place: Path) -> None:
    """Write the picture of a conversation's readings."""
    paint.write(timeline.picture(timeline_of(told)), place)


def draw_map(home: Home, place: Path, layer: int | None) -> Json:
    """Write the map of the concepts in a home."""
    paint.check(place)
    vectors, texts = stored_vectors(home.path / "readout")
    chosen = choose_layer(vectors, layer, vectors.layers[len(vectors.layers) // 2])
    about = f"vectors of layer {chosen}, estimated on the weights {vectors.weights_version[:12]}"
    values = vectors.values[vectors.layers.index(chosen)]
    paint.write(concept_map.picture(vectors.concepts, values, clusters_of(texts), about), place)
    return {"layer": chosen, "concepts": len(vectors.concepts), "written": str(place)}


def shown(told: Json) -> None:
    """The table, and what was said."""
    found = timeline_of(told)
    columns = timeline.columns(found, MOST_COLUMNS)
    scale = timeline.scale_of(columns.values)
    wide = 2 if len(columns.heads) <= DOUBLE else 1
    more = "" if columns.turns == 1 else f", each column the mean of {columns.turns}"
    _line(f"{printable(told['conversation'])}: {len(found.roles)} turns{more}, layer {found.layer}")
    _line(f"0: the mean of {found.baseline}; 1: their standard deviation")
    _line(f"bars from {-scale:g} to {scale:g}; {found.together}")
    heads = "".join(head.ljust(wide) for head in columns.heads)
    room = len(columns.heads) * wide
    _line(f"{'':{NAME}} {heads:{room}} {'low':>6} {'high':>6} {'last':>6}")
    for name, values, whole in zip(found.concepts, columns.values.T, found.values.T, strict=True):
        line = Text(f"{name[:NAME]:{NAME}} ")
        for value in values:
            line.append(_bar(float(value), scale) * wide, style=f"{timeline.colour(float(value), scale)}")
        line.append(
            f" {timeline.signed(whole.min()):>6} {timeline.signed(whole.max()):>6} {timeline.signed(whole[-1]):>6}"
        )
        out.print(line, soft_wrap=True)
    left = len(told["concepts"]) - len(found.concepts)
    if left:
        _line(f"and {left} concepts that swing less: name some with --concepts")
    _turns(found)
    if told["written"]:
        _line(f"drawn to {told['written']}", whole=True)


def _turns(found: Timeline) -> None:
    """The words of the first turns."""
    for number, (role, text) in enumerate(
        zip(found.roles[:LISTED], found.texts[:LISTED], strict=True), start=1
    ):
        _line(f"{number:>3} {timeline.ROLES.get(role, '?')} {printable(text)}")
    if len(found.roles) > LISTED:
        _line(f"    and {len(found.roles) - LISTED} more turns")


def _line(text: str, *, whole: bool = False) -> None:
    """A line of 80 columns at most; what may not be cut is printed whole."""
    short = text if whole or len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."
    out.print(Text(short), soft_wrap=True)


def _bar(value: float, scale: float) -> str:
    """The height of a value between -scale and scale."""
    letters = BARS if (out.encoding or "").lower().startswith("utf") else PLAIN
    share = (value / scale + 1) / 2
    return letters[min(len(letters) - 1, max(0, int(share * len(letters))))]
