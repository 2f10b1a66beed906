"""The sets of concepts: their content, the refusal of unusable ones, and the places of their texts."""

import shutil
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from corpus import concept_sets, states
from corpus.concept_sets import ConceptSet
from corpus.errors import UsageError
from corpus.world import concepts, ordinary

WORLD = concept_sets.of_world()
ASKED_FOR = {"listening", "offering_alternatives", "pushing_back", "agreeing", "asking", "elaborating"}


@pytest.fixture(scope="module")
def states_set() -> ConceptSet:
    return concept_sets.of_states()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Copy the states' texts."""
    for folder in ("stories", "paired"):
        shutil.copytree(states.HERE / folder, tmp_path / folder)
    shutil.copy(states.HERE / "states.json", tmp_path)
    return tmp_path


def test_the_set_of_states_has_every_story_framing_and_neutral_telling_once(states_set: ConceptSet) -> None:
    counts = Counter(states_set.labels)
    scenarios = states.scenarios()
    assert states_set.concepts == states.STATES and counts[None] == len(scenarios)
    assert sum(counts.values()) == sum(len(states.stories(s)) for s in states.STATES) + sum(
        map(len, scenarios.values())
    )
    for state in states.STATES:
        framings = sum(state in tellings for tellings in scenarios.values())
        assert counts[state] == len(states.stories(state)) + framings
    states_set.check()
    assert states_set.sha256 == states.sha256() != WORLD.sha256


def test_the_set_of_the_world_has_twelve_or_more_texts_of_each_concept_and_neutral_talk() -> None:
    counts = Counter(WORLD.labels)
    assert set(WORLD.concepts) >= ASKED_FOR and len({text for _, text in WORLD.texts}) == len(WORLD.texts)
    assert all(counts[concept] >= 12 for concept in WORLD.concepts) and counts[None] >= 12
    WORLD.check()
    assert concept_sets.of_world() == WORLD == concept_sets.load("world")


def test_each_concept_of_the_world_is_in_several_kinds_of_request_and_each_kind_has_several() -> None:
    carried = defaultdict(set)
    for concept, settings in concepts.SETTINGS.items():
        assert len({kind for kind, _ in settings}) >= 2, concept
        for kind, _ in settings:
            carried[kind].add(concept)
    assert all(len(names) >= 2 for names in carried.values()), carried


def test_the_worlds_neutral_texts_are_not_reserved_for_measurements() -> None:
    held_out = {" ".join(exchange) for exchange in ordinary.held_out(300)}
    assert not held_out & {text for label, text in WORLD.texts if label is None}


def test_an_errand_with_another_detail_never_equals_the_request() -> None:
    guesses = [text for label, text in WORLD.texts if label == "guessing" and "Done: " in text]
    assert guesses
    for text in guesses:
        asked, _, done = text.partition(" Done: ")
        assert done.rstrip(".") not in asked


@pytest.mark.parametrize(
    ("file", "content", "fault"),
    [
        (
            "stories/bitter.txt",
            "",
            "'bitter' has [01] texts in .*stories/bitter.txt and .*paired, and needs 2",
        ),
        (
            "paired/a_commute/anxious.txt",
            " \n",
            "a text of 'anxious' is empty: see .*stories/anxious.txt and .*paired",
        ),
        ("paired/a_commute/baseline.txt", None, "paired/a_commute has no baseline.txt"),
        (
            "paired/a_commute/gleeful_ish.txt",
            "Text.",
            "has texts of 'gleeful_ish', which is none of its concepts",
        ),
    ],
)
def test_a_corpus_without_usable_vectors_is_refused_with_the_concept_and_the_place(
    root: Path, file: str, content: str | None, fault: str
) -> None:
    concept_sets.of_states(root).check()
    if content is None:
        (root / file).unlink()
    else:
        (root / file).write_text(content)
    with pytest.raises(UsageError, match=fault):
        concept_sets.of_states(root).check()


@pytest.mark.parametrize("folder", ["stories", "paired"])
def test_a_missing_folder_is_named(root: Path, folder: str) -> None:
    shutil.rmtree(root / folder)
    with pytest.raises(UsageError, match=f"there is no folder .*{folder}"):
        concept_sets.of_states(root)


def test_a_minimum_number_of_texts_can_be_required(states_set: ConceptSet) -> None:
    WORLD.check(24)
    with pytest.raises(UsageError, match=r"'agreeing' has 24 texts in .*concepts\.py, and needs 25"):
        WORLD.check(25)
    with pytest.raises(UsageError, match=r"has .* texts"):
        states_set.check(50)
    with pytest.raises(UsageError, match="is empty: see the neutral texts"):
        replace(WORLD, texts=(*WORLD.texts, (None, " "))).check()


def test_every_text_of_the_states_is_at_its_stated_place(states_set: ConceptSet) -> None:
    places = concept_sets.text_places(states_set)
    assert len(places) == len(states_set.texts) == len(set(places))
    for place, (_, text) in zip(places, states_set.texts, strict=True):
        name, _, number = place.partition(" paragraph ")
        paragraphs = states.paragraphs((states.HERE / name).read_text(encoding="utf-8"))
        assert paragraphs[int(number or 1) - 1] == text


def test_the_texts_of_the_world_are_numbered_by_concept() -> None:
    places = concept_sets.text_places(WORLD)
    assert len(places) == len(set(places)) == len(WORLD.texts)
    assert places[0] == f"{WORLD.concepts[0]} 1"
    assert any(place.startswith("ordinary talk") for place in places)
