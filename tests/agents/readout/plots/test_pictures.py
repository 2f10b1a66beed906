"""Pictures: labels do not overlap, the measured values are drawn, and hostile words break no file."""

import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agents.readout.concept_vectors import Numbers
from agents.readout.plots import concept_map, paint, timeline
from agents.readout.plots.picture import Box, Dot, Picture, Words, length, svg
from agents.readout.plots.timeline import Timeline
from agents.readout.quality.labelled_activations import unit
from corpus.errors import UsageError
from corpus.states import CLUSTERS, STATES


def readings(turns: int, concepts: int = 3) -> Timeline:
    rng = np.random.default_rng(turns)
    return Timeline(
        name="conversation 0123456789abcdef",
        concepts=tuple(f"concept_{index}" for index in range(concepts)),
        roles=tuple(("user", "assistant")[turn % 2] for turn in range(turns)),
        texts=tuple(f"Turn number {turn}, with <tags> & \x00 'quotes'." for turn in range(turns)),
        values=rng.normal(size=(turns, concepts)),
        layer=2,
        window=2,
        baseline="the 240 texts behind the vectors",
    )


def of_states() -> Numbers:
    """Return a vector for each state, nearer to those of its cluster."""
    rng = np.random.default_rng(0)
    middles = {name: rng.normal(size=64) for name in CLUSTERS}
    home = {state: name for name, states in CLUSTERS.items() for state in states}
    shared = np.stack([middles[home[state]] if state in home else np.zeros(64) for state in STATES])
    return unit(1.2 * shared + rng.normal(size=(len(STATES), 64)))


def texts_of(picture: Picture) -> list[str]:
    """Return the words in the picture's file, which any XML reader can parse."""
    root = ElementTree.fromstring(svg(picture))
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


Area = tuple[str, float, float, float, float]


def areas(picture: Picture) -> list[Area]:
    """Return each line of words with its left, upper, right and lower edge."""
    lines = []
    for shape in picture.shapes:
        if isinstance(shape, Words):
            wide = length(shape.text, shape.size) * 0.95
            left = shape.x - {"start": 0, "middle": wide / 2, "end": wide}[shape.anchor]
            lines.append(
                (shape.text, left, shape.y - shape.size * 0.7, left + wide, shape.y + shape.size * 0.2)
            )
    return lines


def meet(one: Area, two: Area) -> bool:
    return one[1] < two[3] and two[1] < one[3] and one[2] < two[4] and two[2] < one[4]


def overlapping(picture: Picture) -> list[tuple[str, str]]:
    """Return the pairs of words that overlap."""
    every = areas(picture)
    return [
        (one[0], two[0]) for index, one in enumerate(every) for two in every[index + 1 :] if meet(one, two)
    ]


@pytest.mark.parametrize("turns", [1, 2, 10, 24, 60, 61, 500])
def test_a_timeline_has_title_unit_and_legend_and_no_overlapping_words(turns: int) -> None:
    drawn = timeline.picture(readings(turns))
    words = texts_of(drawn)
    assert words[0] == "Readings over the turns of conversation 0123456789abcdef"
    assert any("standard deviations from the mean of the 240 texts" in text for text in words)
    assert not overlapping(drawn)
    for _, left, top, right, bottom in areas(drawn):
        assert 0 <= left and right <= drawn.width and 0 <= top and bottom <= drawn.height


def test_a_cell_has_the_number_and_the_colour_of_its_reading() -> None:
    given = readings(4)
    drawn = timeline.picture(given)
    scale = timeline.scale_of(given.values)
    cells = [shape.fill for shape in drawn.shapes if isinstance(shape, Box)][: given.values.size]
    assert cells == [timeline.colour(float(value), scale) for value in given.values.T.ravel()]
    numbers = [text for text in texts_of(drawn) if text[0] in "+-" and "." in text]
    assert numbers[: given.values.size] == [timeline.signed(value) for value in given.values.T.ravel()]
    assert timeline.signed(-0.01) == "+0.0" and timeline.colour(0.0, 1.0) == timeline.MIDDLE
    assert timeline.colour(-2.0, 1.0) == timeline.LOW and timeline.colour(1.0, 1.0) == timeline.HIGH


def test_more_turns_than_columns_are_shown_as_labelled_means_of_adjacent_turns() -> None:
    given = readings(125)
    shown = timeline.columns(given)
    assert shown.turns == 3 and shown.first[:3] == (1, 4, 7) and len(shown.heads) == 42
    assert shown.values[0] == pytest.approx(given.values[:3].mean(axis=0))
    assert shown.values[-1] == pytest.approx(given.values[123:].mean(axis=0))
    assert any("each column is the mean of 3 turns" in text for text in texts_of(timeline.picture(given)))


def test_the_concepts_with_the_largest_readings_are_chosen_or_the_named_ones_in_order() -> None:
    given = readings(6, concepts=5)
    swings = np.abs(given.values).max(axis=0)
    assert timeline.choose_concepts(given, (), 2).concepts == tuple(
        f"concept_{i}" for i in np.argsort(-swings)[:2]
    )
    named = timeline.choose_concepts(given, ("concept_3", "concept_0"), 1)
    assert named.concepts == ("concept_3", "concept_0") and np.array_equal(
        named.values, given.values[:, [3, 0]]
    )


def test_the_map_of_all_states_names_each_once_without_covering_a_name_or_a_dot() -> None:
    drawn = concept_map.picture(STATES, of_states(), CLUSTERS, "layer 5")
    words = texts_of(drawn)
    assert all(words.count(state) == 1 for state in STATES) and not overlapping(drawn)
    dots: list[Area] = [
        (
            shape.fill,
            shape.x - shape.radius,
            shape.y - shape.radius,
            shape.x + shape.radius,
            shape.y + shape.radius,
        )
        for shape in drawn.shapes
        if isinstance(shape, Dot)
    ]
    assert len(dots) == len(STATES)
    assert not [area for area in areas(drawn) if any(meet(area, dot) for dot in dots)]


def test_the_map_colours_by_cluster_and_the_legend_counts_the_members() -> None:
    drawn = concept_map.picture(STATES, of_states(), CLUSTERS, "layer 5")
    fills = [shape.fill for shape in drawn.shapes if isinstance(shape, Dot)]
    assert len(set(fills)) == len(CLUSTERS) + 1
    for members in CLUSTERS.values():
        assert len({fills[STATES.index(state)] for state in members}) == 1
    assert "exuberant joy (20)" in texts_of(drawn) and "in no cluster (28)" in texts_of(drawn)


def test_the_plane_has_the_largest_variance_and_keeps_distances_in_it() -> None:
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.normal(size=(30, 2)))[0].T
    flat = rng.normal(size=(12, 2)) * (3, 1)
    projected = concept_map.plane(flat @ axes + 5.0)
    assert sum(projected.shares) == pytest.approx(1.0, abs=1e-5) and projected.shares[0] > projected.shares[1]
    apart = np.linalg.norm(projected.places[:, None] - projected.places[None], axis=2)
    assert apart == pytest.approx(np.linalg.norm(flat[:, None] - flat[None], axis=2), abs=1e-4)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_map_of_very_few_concepts_is_drawn_too(count: int) -> None:
    drawn = concept_map.picture(STATES[:count], of_states()[:count], {}, "layer 5")
    assert texts_of(drawn)[0].startswith(f"Where {count}") and all(
        name in texts_of(drawn) for name in STATES[:count]
    )


def test_a_picture_is_deterministic_to_the_byte_and_a_png_is_twice_its_size(tmp_path: Path) -> None:
    drawn = timeline.picture(readings(5))
    paint.write(drawn, tmp_path / "one.svg")
    assert (tmp_path / "one.svg").read_text() == svg(timeline.picture(readings(5)))
    paint.write(drawn, tmp_path / "one.PNG")
    data = (tmp_path / "one.PNG").read_bytes()
    assert data == paint.png(drawn)
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (2 * drawn.width, 2 * drawn.height)
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
        assert len(image.convert("RGB").getcolors(maxcolors=10**6)) > 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.PNG", "one.svg"]


@pytest.mark.parametrize(
    ("name", "complaint"), [("x.gif", ".svg nor .png"), ("no/x.svg", "no folder"), ("d.svg", "folder")]
)
def test_an_unwritable_path_is_refused(tmp_path: Path, name: str, complaint: str) -> None:
    (tmp_path / "d.svg").mkdir()
    with pytest.raises(UsageError, match=complaint):
        paint.check(tmp_path / name)
