"""Draws the concepts on a plane, coloured by cluster, to show which vectors are similar.

The plane is that of the vectors' first two principal components. The axes' labels state the share of the
variance along each axis, since vectors that are near each other on the plane need not be similar.

Invariant: a map depends on its data alone. No name covers another name or a dot. A name for which there is no
space is left out, and the picture states how many are. This module knows nothing about models.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np

from agents.readout.concept_vectors import Numbers
from agents.readout.plots.picture import FAINT, GRID, Box, Dot, Line, Picture, Shape, Words, length, shortened

COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9",
    "#7b3fa0", "#8c2d04", "#4d7c0f", "#e31a76", "#3f51b5", "#00838f",
)  # fmt: skip
"""Colours of the clusters. The first six are those of Okabe and Ito, which colour-blind readers can
distinguish."""
APART = "#8b949e"
"""Colour of a concept in no cluster."""
MARGIN, RADIUS = 40.0, 4.0
LEGEND = 250.0
FEW, MANY = 40, 100
"""Largest number of concepts in a small picture, and in a picture of medium size."""
REACH = 30
"""Number of rings around a dot in which a place for the concept's name is searched."""


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Concepts in two dimensions."""

    places: Numbers
    """Place of each concept, `(n_concepts, 2)`."""
    shares: tuple[float, float]
    """Share of the vectors' variance along each axis, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class _Area:
    """The rectangle that a name or a dot takes up."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "_Area") -> bool:
        """Return whether the two areas overlap."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


def plane(vectors: Numbers) -> Plane:
    """Return the vectors' places on the plane of their first two principal components.

    `vectors` is `(n_concepts, hidden_size)`. The components are computed by SVD in float32, about the
    vectors' mean. Each axis points so that the concept furthest from its origin is on the positive side.
    """
    centred = (vectors - vectors.mean(axis=0)).astype(np.float32)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(vectors), 2))
    first_two = (left * sizes)[:, :2]
    places[:, : first_two.shape[1]] = first_two
    places *= np.where(places[np.abs(places).argmax(axis=0), (0, 1)] < 0, -1, 1)
    squares = np.zeros(2)
    squares[: len(sizes[:2])] = sizes[:2] ** 2
    whole = float((sizes**2).sum()) or 1.0
    return Plane(places=places, shares=(float(squares[0] / whole), float(squares[1] / whole)))


def picture(
    concepts: Sequence[str], vectors: Numbers, clusters: Mapping[str, Sequence[str]], about: str
) -> Picture:
    """Return the map as a picture.

    Args:
        concepts: Names of the concepts.
        vectors: Their vectors, `(n_concepts, hidden_size)`.
        clusters: Names of the concepts in each cluster, by the cluster's name.
        about: The line below the title.
    """
    projected = plane(vectors)
    side = 520.0 if len(concepts) <= FEW else 760.0 if len(concepts) <= MANY else 1040.0
    size = 12.0 if len(concepts) <= FEW else 11.0
    legend = LEGEND if clusters else 0.0
    width, height = side + side * 0.3 + legend + 2 * MARGIN, side + 2 * MARGIN + 60
    frame = _Area(left=MARGIN + 20, top=76, right=width - legend - MARGIN, bottom=height - MARGIN - 14)
    colours = _colours(concepts, clusters)
    dots = _placed(projected, frame)
    named, left_out = _names(concepts, dots, frame, size)
    shapes: list[Shape] = [
        *_title(len(concepts), about, left_out),
        *_axes(projected, frame),
        *(shape for shape in named if isinstance(shape, Line)),
        *(
            Dot(x=x, y=y, radius=RADIUS, fill=colours[name])
            for name, (x, y) in zip(concepts, dots, strict=True)
        ),
        *(shape for shape in named if isinstance(shape, Words)),
        *_legend(concepts, clusters, colours, frame.right + 30),
    ]
    title = f"{len(concepts)} concepts on the plane of their vectors' first two principal components"
    return Picture(width=round(width), height=round(height), title=title, shapes=shapes)


def _colours(concepts: Sequence[str], clusters: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the colour of each concept."""
    colours = dict.fromkeys(concepts, APART)
    for index, members in enumerate(clusters.values()):
        colours |= {name: COLOURS[index % len(COLOURS)] for name in members if name in colours}
    return colours


def _placed(projected: Plane, frame: _Area) -> list[tuple[float, float]]:
    """Return each concept's place in the picture. Both axes have the same scale."""
    pad = 46.0
    low, high = projected.places.min(axis=0), projected.places.max(axis=0)
    space = np.array([frame.right - frame.left - 2 * pad, frame.bottom - frame.top - 2 * pad])
    scale = float((space / np.maximum(high - low, 1e-9)).min())
    middle = np.array([(frame.left + frame.right) / 2, (frame.top + frame.bottom) / 2])
    placed = middle + (projected.places - (low + high) / 2) * scale * np.array([1, -1])
    return [(float(x), float(y)) for x, y in placed]


def _names(
    concepts: Sequence[str], dots: Sequence[tuple[float, float]], frame: _Area, size: float
) -> tuple[list[Shape], int]:
    """Return shapes with a name beside each dot, and how many names are left out for want of space."""
    pad = RADIUS + 1
    taken = [_Area(left=x - pad, top=y - pad, right=x + pad, bottom=y + pad) for x, y in dots]
    shapes: list[Shape] = []
    left_out = 0
    for name, (x, y) in zip(concepts, dots, strict=True):
        wide, high = length(name, size) + 2, size + 1
        for dx, dy in _around(wide, high):
            area = _Area(left=x + dx, top=y + dy, right=x + dx + wide, bottom=y + dy + high)
            if _inside(area, frame) and not any(area.meets(other) for other in taken):
                taken.append(area)
                shapes += _named(name, area, (x, y), size)
                break
        else:
            left_out += 1
    return shapes, left_out


def _inside(area: _Area, frame: _Area) -> bool:
    """Return whether the area lies within the frame and keeps a margin."""
    return (
        area.left >= frame.left + 4
        and area.right <= frame.right - 4
        and area.top >= frame.top + 4
        and area.bottom <= frame.bottom - 4
    )


def _around(wide: float, high: float) -> Iterator[tuple[float, float]]:
    """Yield places for a name's upper left corner, relative to the dot: right, left, above, below, rings."""
    gap = RADIUS + 2
    yield gap, -high / 2
    yield -gap - wide, -high / 2
    yield -wide / 2, -gap - high
    yield -wide / 2, gap
    for ring in range(1, REACH + 1):
        for step in range(16):
            angle = 2 * pi * step / 16
            reach = gap + 9 * ring
            across, up = cos(angle), sin(angle)
            dx = across * reach - (wide if across < -0.3 else wide / 2 if abs(across) <= 0.3 else 0)
            yield dx, up * reach - high / 2


def _named(name: str, area: _Area, dot: tuple[float, float], size: float) -> list[Shape]:
    """Return the name's shape, and a line from its nearest edge to the dot if they are not adjacent."""
    x, y = dot
    edge_x, edge_y = min(max(x, area.left), area.right), min(max(y, area.top), area.bottom)
    low = area.bottom - size * 0.22
    if area.right <= x:
        words = Words(x=area.right - 1, y=low, text=name, size=size, anchor="end")
    elif area.left >= x:
        words = Words(x=area.left + 1, y=low, text=name, size=size)
    else:
        words = Words(x=(area.left + area.right) / 2, y=low, text=name, size=size, anchor="middle")
    if max(abs(edge_x - x), abs(edge_y - y)) <= RADIUS + 3:
        return [words]
    return [Line(x=x, y=y, to_x=edge_x, to_y=edge_y, colour="#afb8c1", width=0.8), words]


def _title(count: int, about: str, left_out: int) -> list[Shape]:
    more = f"; {left_out} names had no room" if left_out else ""
    return [
        Words(x=MARGIN, y=36, text=f"Where {count} concepts lie to each other", size=17),
        Words(x=MARGIN, y=57, text=f"{about}{more}", size=12, colour=FAINT),
    ]


def _axes(projected: Plane, frame: _Area) -> list[Shape]:
    """Return the shapes of the frame and of the axes' labels."""
    edges = (
        (frame.left, frame.top, frame.right, frame.top),
        (frame.left, frame.bottom, frame.right, frame.bottom),
        (frame.left, frame.top, frame.left, frame.bottom),
        (frame.right, frame.top, frame.right, frame.bottom),
    )
    first, second = (f"{100 * share:.0f} % of the variance" for share in projected.shares)
    middle = (frame.left + frame.right) / 2
    below = f"across: first principal component, {first}; up: second, {second} (same scale)"
    return [
        *(Line(x=a, y=b, to_x=c, to_y=d, colour=GRID) for a, b, c, d in edges),
        Words(x=middle, y=frame.bottom + 22, text=below, size=12, colour=FAINT, anchor="middle"),
    ]


def _legend(
    concepts: Sequence[str], clusters: Mapping[str, Sequence[str]], colours: Mapping[str, str], x: float
) -> list[Shape]:
    """Return shapes with each cluster's colour, name and number of members."""
    if not clusters:
        return []
    shapes: list[Shape] = [Words(x=x, y=90, text="cluster", size=12, colour=FAINT)]
    here = {name: [one for one in members if one in colours] for name, members in clusters.items()}
    rows = [(name, colours[members[0]], len(members)) for name, members in here.items() if members]
    apart = sum(1 for name in concepts if colours[name] == APART)
    rows += [("in no cluster", APART, apart)] if apart else []
    for index, (name, colour, count) in enumerate(rows):
        y = 112 + 20 * index
        label = shortened(f"{name.replace('_', ' ')} ({count})", LEGEND - 40, 11.5)
        shapes += [
            Box(x=x, y=y - 9, width=10, height=10, fill=colour),
            Words(x=x + 16, y=y, text=label, size=11.5),
        ]
    return shapes
