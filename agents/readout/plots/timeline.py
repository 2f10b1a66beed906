"""Draws a conversation's readings over its turns as a heat map.

Invariant: all functions are pure. All rows have the same scale, 0 is the baseline's mean, and the picture
names the unit. If there are too many turns, a column shows the mean of several adjacent turns, and the
picture states this. This module knows nothing about models.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from agents.readout.concept_vectors import Numbers
from agents.readout.plots.picture import (
    FAINT,
    GRID,
    INK,
    Box,
    Line,
    Picture,
    Shape,
    Words,
    length,
    mixed,
    printable,
    shortened,
)

LOW, MIDDLE, HIGH = "#2166ac", "#f7f7f7", "#c4561b"
"""Blue and orange, which red-green colour-blind readers can distinguish."""
MOST_COLUMNS = 60
LISTED = 12
"""Number of turns whose words are printed below the table."""
ROLES = {"user": "u", "assistant": "a", "system": "s", "tool": "t"}
WIDTH, MARGIN, ROW, TEXT = 900, 24, 26, 12
STEPS = 48
"""Number of strips in the colour bar."""


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The readings of one conversation."""

    name: str
    concepts: tuple[str, ...]
    roles: tuple[str, ...]
    """Of each turn."""
    texts: tuple[str, ...]
    """Of each turn."""
    values: Numbers
    """The readings, `(n_turns, n_concepts)`: scores minus the baseline's mean, in the baseline's standard
    deviations."""
    layer: int
    window: int | None
    """How many turns were read together for a reading, the turn itself and those before it; None for all."""
    baseline: str
    """A description of the baseline, in words."""

    @property
    def together(self) -> str:
        """A description of which turns were read together, in words."""
        if self.window is None:
            return "each turn read with all before it"
        return {1: "each turn read alone", 2: "each turn read with the one before it"}.get(
            self.window, f"each turn read with the {self.window - 1} before it"
        )


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of the drawn timeline, each for one turn or for several adjacent turns."""

    values: Numbers
    """The readings in each column, `(n_columns, n_concepts)`."""
    heads: tuple[str, ...]
    """For each column, the letter of its turn's role, or "·" if it has several turns."""
    first: tuple[int, ...]
    """For each column, the number of its first turn, from 1."""
    turns: int
    """Number of turns in a column."""


def columns(timeline: Timeline, most: int = MOST_COLUMNS) -> Columns:
    """Return the columns of the drawn timeline, at most `most`."""
    count = len(timeline.roles)
    turns = max(1, -(-count // most))
    starts = range(0, count, turns)
    return Columns(
        values=np.stack([timeline.values[start : start + turns].mean(axis=0) for start in starts]),
        heads=tuple(ROLES.get(timeline.roles[start], "?") if turns == 1 else "·" for start in starts),
        first=tuple(start + 1 for start in starts),
        turns=turns,
    )


def choose_concepts(timeline: Timeline, wanted: Sequence[str], most: int) -> Timeline:
    """Return the timeline of some concepts only.

    These are the concepts in `wanted`. If `wanted` is empty, they are the `most` concepts with the largest
    readings, largest first.
    """
    if wanted:
        order = [timeline.concepts.index(name) for name in wanted]
    else:
        order = [int(i) for i in np.argsort(-np.abs(timeline.values).max(axis=0), kind="stable")[:most]]
    concepts = tuple(timeline.concepts[index] for index in order)
    return replace(timeline, concepts=concepts, values=timeline.values[:, order])


def scale_of(values: Numbers) -> float:
    """Return the end of the scale: the largest absolute value, rounded up to a multiple of 0.5."""
    return max(0.5, float(np.ceil(np.abs(values).max() * 2) / 2))


def colour(value: float, scale: float) -> str:
    """Return the colour of a value on a scale from -scale to scale."""
    share = min(1.0, abs(value) / scale)
    return mixed(MIDDLE, HIGH if value > 0 else LOW, share)


def signed(value: float) -> str:
    """Return a reading as text with its sign and one digit after the point; never "-0.0"."""
    return f"{round(float(value), 1) + 0.0:+.1f}"


def picture(timeline: Timeline) -> Picture:
    """Return the timeline as a picture."""
    shown = columns(timeline)
    left = MARGIN + min(240.0, max(length(name, TEXT) for name in timeline.concepts)) + 10
    cell = min(46.0, (WIDTH - MARGIN - left) / len(shown.heads))
    top = 96.0
    shapes: list[Shape] = [*_title(timeline, shown), *_heads(shown, left, top, cell)]
    scale = scale_of(shown.values)
    for row, name in enumerate(timeline.concepts):
        y = top + row * ROW
        shapes.append(Words(x=left - 10, y=y + 17, text=shortened(name, 240, TEXT), size=TEXT, anchor="end"))
        shapes += _row(shown.values[:, row], scale, left, y, cell)
    bottom = top + len(timeline.concepts) * ROW
    shapes += _bar(scale, left, bottom + 22, timeline.baseline)
    listed = _listing(timeline, bottom + 106)
    height = bottom + 106 + 17 * len(listed)
    return Picture(width=WIDTH, height=round(height), title=_alternative(timeline), shapes=[*shapes, *listed])


def _alternative(timeline: Timeline) -> str:
    concepts, turns = len(timeline.concepts), len(timeline.roles)
    return f"Readings of {concepts} concepts over the {turns} turns of {timeline.name}"


def _title(timeline: Timeline, shown: Columns) -> list[Shape]:
    more = "" if shown.turns == 1 else f"; each column is the mean of {shown.turns} turns"
    about = f"layer {timeline.layer}, {timeline.together} (u: user, a: assistant){more}"
    name = shortened(f"Readings over the turns of {timeline.name}", WIDTH - 2 * MARGIN, 17)
    return [
        Words(x=MARGIN, y=34, text=name, size=17),
        Words(x=MARGIN, y=54, text=about, size=TEXT, colour=FAINT),
    ]


def _heads(shown: Columns, left: float, top: float, cell: float) -> list[Shape]:
    """Return shapes with the number and role of each column's turn, for as many columns as fit."""
    step = max(1, -(-24 // int(cell)))
    shapes: list[Shape] = [Words(x=left - 10, y=top - 8, text="turn", size=11, colour=FAINT, anchor="end")]
    for index, (first, head) in enumerate(zip(shown.first, shown.heads, strict=True)):
        if index % step == 0:
            label = str(first) if head == "·" or cell < 24 else f"{first} {head}"
            middle = left + (index + 0.5) * cell
            shapes.append(Words(x=middle, y=top - 8, text=label, size=11, colour=FAINT, anchor="middle"))
    return shapes


def _row(values: Numbers, scale: float, left: float, y: float, cell: float) -> list[Shape]:
    """Return the shapes of one concept's row: a cell for each column, with the reading if it fits."""
    shapes: list[Shape] = []
    for index, value in enumerate(values):
        x = left + index * cell
        shapes.append(Box(x=x, y=y, width=cell - 1, height=ROW - 2, fill=colour(float(value), scale)))
        if cell >= 34:
            ink = "#ffffff" if abs(value) > 0.75 * scale else INK
            shapes.append(
                Words(x=x + cell / 2, y=y + 16, text=signed(value), size=11, colour=ink, anchor="middle")
            )
    return shapes


def _bar(scale: float, left: float, y: float, baseline: str) -> list[Shape]:
    """Return the shapes of the colour bar."""
    width = 288.0
    strip = width / STEPS
    shapes: list[Shape] = []
    for index in range(STEPS):
        value = (2 * (index + 0.5) / STEPS - 1) * scale
        shapes.append(
            Box(x=left + index * strip, y=y, width=strip + 0.5, height=10, fill=colour(value, scale))
        )
    for share, label in ((0.0, f"-{scale:g}"), (0.5, "0"), (1.0, f"+{scale:g}")):
        x = left + share * width
        shapes.append(Line(x=x, y=y + 10, to_x=x, to_y=y + 14, colour=FAINT))
        shapes.append(Words(x=x, y=y + 27, text=label, size=11, colour=FAINT, anchor="middle"))
    unit = f"standard deviations from the mean of {baseline}"
    return [*shapes, Words(x=left, y=y + 46, text=unit, size=11, colour=FAINT)]


def _listing(timeline: Timeline, y: float) -> list[Shape]:
    """Return shapes with the words of the first turns."""
    shapes: list[Shape] = []
    for index, (role, text) in enumerate(zip(timeline.roles[:LISTED], timeline.texts[:LISTED], strict=True)):
        words = f"{index + 1} {ROLES.get(role, '?')}: {printable(text)}"
        line = shortened(words, WIDTH - 2 * MARGIN, 11.5)
        shapes.append(
            Words(x=MARGIN, y=y + 17 * index, text=line, size=11.5, colour=INK if role == "user" else FAINT)
        )
    if len(timeline.roles) > LISTED:
        more = f"and {len(timeline.roles) - LISTED} more turns"
        shapes.append(Words(x=MARGIN, y=y + 17 * LISTED, text=more, size=11.5, colour=FAINT))
    return [Line(x=MARGIN, y=y - 20, to_x=WIDTH - MARGIN, to_y=y - 20, colour=GRID), *shapes]
