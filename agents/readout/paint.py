"""A picture as a file: SVG by ourselves, PNG by Pillow.

Invariant: the file is whole under its name or was not touched. Knows nothing of what is drawn.
"""

import io
from pathlib import Path
from typing import Any

from agents.readout.picture import GROUND, Box, Dot, Line, Picture, Words, svg
from corpus.errors import UsageError

SCALE = 2
"""Pixels of a PNG for each unit of the picture."""
FINER = 2
"""How many times finer it is drawn before it is made smaller, so that circles and lines are smooth."""
COLOURS = 160
"""Of a PNG: flat grounds, and their edges with the text."""
ENDINGS = (".svg", ".png")
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}
"""Pillow's names: left, middle or right, on the base line."""


def check(place: Path) -> None:
    """Refuse a place that no picture can be written to, before any work is done for it."""
    if place.suffix.lower() not in ENDINGS:
        raise UsageError(f"{place} is neither .svg nor .png: the ending says which picture is wanted")
    if not place.parent.is_dir():
        raise UsageError(f"there is no folder {place.parent}: make it, or name another for {place.name}")
    if place.is_dir():
        raise UsageError(f"{place} is a folder: name a file in it")


def write(picture: Picture, place: Path) -> None:
    """Write the picture in the form that the ending of its name says."""
    check(place)
    data = png(picture) if place.suffix.lower() == ".png" else svg(picture).encode()
    partial = place.with_name(f".{place.name}.tmp")
    partial.write_bytes(data)
    partial.replace(place)


def png(picture: Picture) -> bytes:
    """The picture as a PNG, `SCALE` pixels a unit."""
    from PIL import Image, ImageDraw

    finer = SCALE * FINER
    canvas = Image.new("RGB", (picture.width * finer, picture.height * finer), GROUND)
    draw = ImageDraw.Draw(canvas)
    for shape in picture.shapes:
        _draw(draw, shape, finer)
    small = canvas.resize((picture.width * SCALE, picture.height * SCALE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.quantize(COLOURS, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _draw(draw: Any, shape: Box | Dot | Line | Words, scale: int) -> None:
    from PIL import ImageFont

    x, y = shape.x * scale, shape.y * scale
    match shape:
        case Box():
            # Pillow's corners are both inside the box
            right, bottom = x + shape.width * scale - 1, y + shape.height * scale - 1
            draw.rectangle((x, y, max(x, right), max(y, bottom)), fill=shape.fill)
        case Dot():
            radius = shape.radius * scale
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=shape.fill)
        case Line():
            width = max(1, round(shape.width * scale))
            draw.line((x, y, shape.to_x * scale, shape.to_y * scale), fill=shape.colour, width=width)
        case Words():
            font = ImageFont.load_default(size=shape.size * scale)
            draw.text((x, y), shape.text, fill=shape.colour, font=font, anchor=_ANCHORS[shape.anchor])
