"""The output of `readout show` and `readout map`: lines of bars on the terminal, or a picture in a file.

Invariant: a line is at most 80 columns wide. It can be read without colour, because the height of a bar shows
its value. All bars have the same scale.
"""

from pathlib import Path

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from agents.readout.plots import concept_map, paint, timeline
from agents.readout.plots.picture import printable
from agents.readout.plots.timeline import Timeline
from agents.readout.quality.examiner import choose_layer, clusters_of, stored_vectors
from corpus.text import visible
from loop.cli.show.console import cells, out
from loop.operations.results.readouts import ConceptMap, ConversationReadings
from store.home import Home

MOST_CONCEPTS = 16
"""Largest number of concepts that are shown if the user names none."""
MOST_COLUMNS, DOUBLE = 34, 17
"""Largest number of columns of bars, and largest number for which each column is two characters wide."""
NAME = 22
"""Number of characters of a concept's name that are shown."""
WIDTH = 80
BARS = "▁▂▃▄▅▆▇█"
PLAIN = "12345678"
"""Digits that stand for the bars on a terminal without Unicode."""
MOST_TURNS = 12
"""Largest number of turns whose text is printed."""


def timeline_of(report: ConversationReadings) -> Timeline:
    """Return a conversation's readings as a timeline to draw.

    It shows the concepts that the user named, or else those whose readings move most.
    """
    import numpy as np

    names = tuple(report.concepts)
    whole = Timeline(
        name=report.conversation,
        concepts=names,
        roles=tuple(turn.role for turn in report.turns),
        texts=tuple(turn.text for turn in report.turns),
        values=np.array([[turn.readings[name] for name in names] for turn in report.turns]),
        layer=report.layer,
        window=report.window,
        baseline=f"the {report.baseline.texts} texts behind the vectors",
    )
    return timeline.choose_concepts(whole, names if report.named else (), MOST_CONCEPTS)


def draw(report: ConversationReadings, place: Path) -> None:
    """Draw a conversation's readings as a picture in the file `place`."""
    paint.write(timeline.picture(timeline_of(report)), place)


def draw_map(home: Home, place: Path, layer: int | None) -> ConceptMap:
    """Draw the map of a home's concepts in a file, and return what was drawn.

    Args:
        home: The home.
        place: Path of the picture.
        layer: The layer whose vectors are drawn; None for a layer in the middle.
    """
    paint.check(place)
    vectors, texts = stored_vectors(home.path / "readout")
    chosen = choose_layer(vectors, layer, vectors.layers[len(vectors.layers) // 2])
    about = f"vectors of layer {chosen}, estimated on the weights {vectors.weights_version[:12]}"
    values = vectors.values[vectors.layers.index(chosen)]
    paint.write(concept_map.picture(vectors.concepts, values, clusters_of(texts), about), place)
    return ConceptMap(layer=chosen, concepts=len(vectors.concepts), written=str(place))


def shown(report: ConversationReadings) -> None:
    """Print a line of bars for each concept, and the text of the turns."""
    view = timeline_of(report)
    columns = timeline.columns(view, MOST_COLUMNS)
    scale = timeline.scale_of(columns.values)
    column_width = 2 if len(columns.heads) <= DOUBLE else 1
    more = "" if columns.turns == 1 else f", each column the mean of {columns.turns}"
    _line(f"{printable(report.conversation)}: {len(view.roles)} turns{more}, layer {view.layer}")
    _line(f"0: the mean of {view.baseline}; 1: their standard deviation")
    _line(f"bars from {-scale:g} to {scale:g}; {view.together}")
    heads = "".join(head.ljust(column_width) for head in columns.heads)
    width = len(columns.heads) * column_width
    _line(f"{'':{NAME}} {heads:{width}} {'low':>6} {'high':>6} {'last':>6}")
    for name, values, every_turn in zip(view.concepts, columns.values.T, view.values.T, strict=True):
        line = Text(f"{cells(name, NAME)} ")
        for value in values:
            line.append(
                _bar(float(value), scale) * column_width, style=f"{timeline.colour(float(value), scale)}"
            )
        for value in (every_turn.min(), every_turn.max(), every_turn[-1]):
            line.append(f" {timeline.signed(value):>6}")
        out.print(line, soft_wrap=True)
    if left := len(report.concepts) - len(view.concepts):
        _line(f"and {left} concepts that move less: name some with --concepts")
    _turns(view)
    if report.written:
        _line(f"drawn to {report.written}", whole=True)


def _turns(view: Timeline) -> None:
    """Print the text of the first turns."""
    turns = zip(view.roles[:MOST_TURNS], view.texts[:MOST_TURNS], strict=True)
    for number, (role, text) in enumerate(turns, start=1):
        _line(f"{number:>3} {timeline.ROLES.get(role, '?')} {printable(text)}")
    if len(view.roles) > MOST_TURNS:
        _line(f"    and {len(view.roles) - MOST_TURNS} more turns")


def _line(text: str, *, whole: bool = False) -> None:
    """Print a line, cut to 80 columns unless `whole`."""
    text = visible(text)
    short = text if whole or cell_len(text) <= WIDTH else f"{set_cell_size(text, WIDTH - 3)}..."
    out.print(Text(short), soft_wrap=True)


def _bar(value: float, scale: float) -> str:
    """Return the character of a bar whose height shows a value between -scale and scale."""
    letters = BARS if (out.encoding or "").lower().startswith("utf") else PLAIN
    share = (value / scale + 1) / 2
    return letters[min(len(letters) - 1, max(0, int(share * len(letters))))]
