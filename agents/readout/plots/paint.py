"""Writes a picture to a file: as SVG, or as PNG with Pillow.

Invariant: the file is replaced completely or not at all. This module does not know what a picture shows.
"""

import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agents.readout.plots.picture import GROUND, Box, Dot, Line, Picture, Words, printable, svg
from corpus.errors import UsageError

SCALE = 2
"""Pixels of a PNG for each unit of the picture."""
FINER = 4
"""A circle is drawn this many times larger and then reduced, for a smooth edge. Letters have smooth edges
already."""
ENDINGS = (".svg", ".png")
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}
"""Pillow's names of the anchors: left, middle or right, on the base line."""


def check(place: Path) -> None:
    """Raise an error if no picture can be written to this path, before any work is done."""
    if place.suffix.lower() not in ENDINGS:
        raise UsageError(f"{place} is neither .svg nor .png: the ending chooses the format")
    if place.suffix.lower() == ".png" and find_spec("PIL") is None:
        raise UsageError("a PNG needs Pillow: `pip install pillow`, or name a file that ends in .svg")
    if not place.parent.is_dir():
        raise UsageError(f"there is no folder {place.parent}: make it, or name another for {place.name}")
    if place.is_dir():
        raise UsageError(f"{place} is a folder: name a file in it")


def write(picture: Picture, place: Path) -> None:
    """Write the picture to a file, in the format that the file's ending names."""
    check(place)
    data = png(picture) if place.suffix.lower() == ".png" else svg(picture).encode()
    partial = place.with_name(f".{place.name}.tmp")
    partial.write_bytes(data)
    partial.replace(place)


def png(picture: Picture) -> bytes:
    """Return the picture as a PNG, with `SCALE` pixels for each unit."""
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (picture.width * SCALE, picture.height * SCALE), GROUND)
    draw = ImageDraw.Draw(canvas)
    for shape in picture.shapes:
        _draw(canvas, draw, shape)
    stream = io.BytesIO()
    canvas.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _draw(canvas: Any, draw: Any, shape: Box | Dot | Line | Words) -> None:
    from PIL import ImageFont

    x, y = shape.x * SCALE, shape.y * SCALE
    match shape:
        case Box():  # for Pillow, both corners are inside the box
            right, bottom = x + shape.width * SCALE - 1, y + shape.height * SCALE - 1
            draw.rectangle((round(x), round(y), round(max(x, right)), round(max(y, bottom))), fill=shape.fill)
        case Dot():
            _dot(canvas, x, y, shape.radius * SCALE, shape.fill)
        case Line():
            width = max(1, round(shape.width * SCALE))
            draw.line((x, y, shape.to_x * SCALE, shape.to_y * SCALE), fill=shape.colour, width=width)
        case Words():
            font = ImageFont.load_default(size=shape.size * SCALE)
            draw.text(
                (x, y), printable(shape.text), fill=shape.colour, font=font, anchor=_ANCHORS[shape.anchor]
            )


def _dot(canvas: Any, x: float, y: float, radius: float, fill: str) -> None:
    """Draw a circle with a smooth edge: a large circle is reduced and used as a mask for its colour."""
    from PIL import Image, ImageDraw

    left, top, side = int(x - radius) - 1, int(y - radius) - 1, int(2 * radius) + 4
    mask = Image.new("L", (side * FINER, side * FINER))
    box = (x - radius - left, y - radius - top, x + radius - left, y + radius - top)
    ImageDraw.Draw(mask).ellipse([edge * FINER for edge in box], fill=255)
    canvas.paste(fill, (left, top), mask.resize((side, side), Image.Resampling.BOX))
