"""The course of a conversation's readings over its turns, drawn as a table of heat.

Invariant: pure; every row has the same scale, 0 is the baseline's mean, and what is drawn says in which unit. Where
there are more turns than columns a column is the mean of neighbours, and says so. Knows no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

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
from agents.readout.quality.samples import Numbers

LOW, MIDDLE, HIGH = "#2166ac", "#f7f7f7", "#c4561b"
"""Blue and orange, which also those tell apart who see no red or no green."""
MOST_COLUMNS = 60
LISTED = 12
"""Turns whose words stand under the table."""
ROLES = {"user": "u", "assistant": "a", "system": "s", "tool": "t"}
WIDTH, MARGIN, ROW, TEXT = 900, 24, 26, 12
STEPS = 48
"""Strips of the scale's bar."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """Readings of one conversation."""

    name: str
    concepts: tuple[str, ...]
    roles: tuple[str, ...]
    """Of each turn."""
    texts: tuple[str, ...]
    """Of each turn."""
    values: Numbers
    """`(n_turns, n_concepts)`: scores less the baseline's mean, in the baseline's standard deviations."""
    layer: int
    window: int | None
    """Turns that were read together for each reading, its own the last; None for all before it."""
    baseline: str
    """What the baseline is, in words."""

    @property
    def together(self) -> str:
        """What was read for each turn, in words."""
        if self.window is None:
            return "each turn read with all before it"
        return {1: "each turn read alone", 2: "each turn read with the one before it"}.get(
            self.window, f"each turn read with the {self.window - 1} before it"
        )


@dataclass(frozen=True, kw_only=True)
class Columns:
    """A course as it is shown: a column for each turn, or for several."""

    values: Numbers
    """`(n_columns, n_concepts)`."""
    heads: tuple[str, ...]
    """Letters of the roles; "·" where a column has several."""
    first: tuple[int, ...]
    """Number of each column's first turn, from 1."""
    turns: int
    """Turns in a column."""


def columns(course: Course, most: int = MOST_COLUMNS) -> Columns:
    """The course in at most so many columns."""
    count = len(course.roles)
    turns = max(1, -(-count // most))
    starts = range(0, count, turns)
    return Columns(
        values=np.stack([course.values[start : start + turns].mean(axis=0) for start in starts]),
        heads=tuple(ROLES.get(course.roles[start], "?") if turns == 1 else "·" for start in starts),
        first=tuple(start + 1 for start in starts),
        turns=turns,
    )


def chosen(course: Course, wanted: Sequence[str], most: int) -> Course:
    """The course of some concepts, those that were named, else those that swing furthest, largest swing first."""
    if wanted:
        order = [course.concepts.index(name) for name in wanted]
    else:
        order = [int(i) for i in np.argsort(-np.abs(course.values).max(axis=0), kind="stable")[:most]]
    return replace(
        course, concepts=tuple(course.concepts[index] for index in order), values=course.values[:, order]
    )


def scale_of(values: Numbers) -> float:
    """The end of the scale: the largest distance from 0, rounded up to a half."""
    return max(0.5, float(np.ceil(np.abs(values).max() * 2) / 2))


def colour(value: float, scale: float) -> str:
    """The colour of a value on a scale from -scale to scale."""
    share = min(1.0, abs(value) / scale)
    return mixed(MIDDLE, HIGH if value > 0 else LOW, share)


def signed(value: float) -> str:
    """A reading as it is printed: its sign, one digit after the point, and no "-0.0"."""
    return f"{round(float(value), 1) + 0.0:+.1f}"


def picture(course: Course) -> Picture:
    """The course as a picture."""
    shown = columns(course)
    left = MARGIN + min(240.0, max(length(name, TEXT) for name in course.concepts)) + 10
    cell = min(46.0, (WIDTH - MARGIN - left) / len(shown.heads))
    top = 96.0
    shapes: list[Shape] = [*_title(course, shown), *_heads(shown, left, top, cell)]
    scale = scale_of(shown.values)
    for row, name in enumerate(course.concepts):
        y = top + row * ROW
        shapes.append(Words(x=left - 10, y=y + 17, text=shortened(name, 240, TEXT), size=TEXT, anchor="end"))
        shapes += _row(shown.values[:, row], scale, left, y, cell)
    bottom = top + len(course.concepts) * ROW
    shapes += _bar(scale, left, bottom + 22, course.baseline)
    listed = _listing(course, bottom + 106)
    height = bottom + 106 + 17 * len(listed)
    return Picture(width=WIDTH, height=round(height), title=_alternative(course), shapes=[*shapes, *listed])


def _alternative(course: Course) -> str:
    return f"Readings of {len(course.concepts)} concepts over the {len(course.roles)} turns of {course.name}"


def _title(course: Course, shown: Columns) -> list[Shape]:
    more = "" if shown.turns == 1 else f"; each column is the mean of {shown.turns} turns"
    about = f"layer {course.layer}, {course.together} (u: user, a: assistant){more}"
    name = shortened(f"Readings over the turns of {course.name}", WIDTH - 2 * MARGIN, 17)
    return [
        Words(x=MARGIN, y=34, text=name, size=17),
        Words(x=MARGIN, y=54, text=about, size=TEXT, colour=FAINT),
    ]


def _heads(shown: Columns, left: float, top: float, cell: float) -> list[Shape]:
    """Number and role over each column, as many as there is room for."""
    step = max(1, -(-24 // int(cell)))
    shapes: list[Shape] = [Words(x=left - 10, y=top - 8, text="turn", size=11, colour=FAINT, anchor="end")]
    for index, (first, head) in enumerate(zip(shown.first, shown.heads, strict=True)):
        if index % step == 0:
            told = str(first) if head == "·" or cell < 24 else f"{first} {head}"
            middle = left + (index + 0.5) * cell
            shapes.append(Words(x=middle, y=top - 8, text=told, size=11, colour=FAINT, anchor="middle"))
    return shapes


def _row(values: Numbers, scale: float, left: float, y: float, cell: float) -> list[Shape]:
    """One concept: a cell for each column, with its number where there is room."""
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
    """What the colours mean."""
    width = 288.0
    strip = width / STEPS
    shapes: list[Shape] = []
    for index in range(STEPS):
        value = (2 * (index + 0.5) / STEPS - 1) * scale
        shapes.append(
            Box(x=left + index * strip, y=y, width=strip + 0.5, height=10, fill=colour(value, scale))
        )
    for share, told in ((0.0, f"-{scale:g}"), (0.5, "0"), (1.0, f"+{scale:g}")):
        x = left + share * width
        shapes.append(Line(x=x, y=y + 10, to_x=x, to_y=y + 14, colour=FAINT))
        shapes.append(Words(x=x, y=y + 27, text=told, size=11, colour=FAINT, anchor="middle"))
    told = f"standard deviations from the mean of {baseline}"
    return [*shapes, Words(x=left, y=y + 46, text=told, size=11, colour=FAINT)]


def _listing(course: Course, y: float) -> list[Shape]:
    """The words of the first turns."""
    shapes: list[Shape] = []
    for index, (role, text) in enumerate(zip(course.roles[:LISTED], course.texts[:LISTED], strict=True)):
        told = f"{index + 1} {ROLES.get(role, '?')}: {printable(text)}"
        line = shortened(told, WIDTH - 2 * MARGIN, 11.5)
        shapes.append(
            Words(x=MARGIN, y=y + 17 * index, text=line, size=11.5, colour=INK if role == "user" else FAINT)
        )
    if len(course.roles) > LISTED:
        told = f"and {len(course.roles) - LISTED} more turns"
        shapes.append(Words(x=MARGIN, y=y + 17 * LISTED, text=told, size=11.5, colour=FAINT))
    return [Line(x=MARGIN, y=y - 20, to_x=WIDTH - MARGIN, to_y=y - 20, colour=GRID), *shapes]
