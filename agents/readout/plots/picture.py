"""A picture as a list of plain shapes, and the same picture as SVG.

Invariant: equal pictures give equal bytes. Lengths are in units of the SVG, which a browser shows as pixels;
y grows downwards. This module does not know what a picture shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

INK, FAINT, GRID, GROUND = "#1f2328", "#59636e", "#d8dee4", "#ffffff"
WIDE = 0.56
"""Assumed width of a letter as a share of the font's size: rather too large, so that texts do not overlap."""
Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True, kw_only=True)
class Box:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    fill: str


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A filled circle."""

    x: float
    y: float
    radius: float
    fill: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """A straight line."""

    x: float
    y: float
    to_x: float
    to_y: float
    colour: str = GRID
    width: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Words:
    """One line of text; (x, y) is on its base line."""

    x: float
    y: float
    text: str
    size: float = 12
    colour: str = INK
    anchor: Anchor = "start"


Shape = Box | Dot | Line | Words


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Shapes on a white ground. Later shapes cover earlier ones."""

    width: int
    height: int
    title: str
    """Alternative text, for readers who cannot see the picture."""
    shapes: Sequence[Shape]


def length(text: str, size: float) -> float:
    """Return the estimated width of a text, in units of the picture."""
    return WIDE * size * len(text)


def printable(text: str) -> str:
    """Return a text as one line, without control characters: XML forbids them, and a terminal obeys them."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def shortened(text: str, width: float, size: float) -> str:
    """Return the text, cut and ended with "..." if it is wider than `width`."""
    letters = int(width / (WIDE * size))
    return text if len(text) <= letters else f"{text[: max(letters - 3, 0)].rstrip()}..."


def svg(picture: Picture) -> str:
    """Return the picture as an SVG document without external fonts or scripts."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {picture.width} {picture.height}" '
        f'width="{picture.width}" height="{picture.height}" role="img" font-family="sans-serif">'
    )
    ground = f'<rect width="{picture.width}" height="{picture.height}" fill="{GROUND}"/>'
    title = f"<title>{escape(printable(picture.title))}</title>"
    return "\n".join([head, title, ground, *map(_element, picture.shapes), "</svg>", ""])


def _element(shape: Shape) -> str:
    match shape:
        case Box(x=x, y=y, width=width, height=height, fill=fill):
            return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}"/>'
        case Dot(x=x, y=y, radius=radius, fill=fill):
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{fill}"/>'
        case Line():
            return (
                f'<line x1="{shape.x:.1f}" y1="{shape.y:.1f}" x2="{shape.to_x:.1f}" y2="{shape.to_y:.1f}" '
                f'stroke="{shape.colour}" stroke-width="{shape.width:.1f}"/>'
            )
        case Words():
            anchor = "" if shape.anchor == "start" else f' text-anchor="{shape.anchor}"'
            place = f'x="{shape.x:.1f}" y="{shape.y:.1f}" font-size="{shape.size:g}"'
            return (
                f"<text {place} fill={quoteattr(shape.colour)}{anchor}>{escape(printable(shape.text))}</text>"
            )


def mixed(low: str, high: str, share: float) -> str:
    """Return a mixture of two colours, as #rrggbb; a share of 0 gives `low`, a share of 1 gives `high`."""
    pairs = [(int(low[i : i + 2], 16), int(high[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)
