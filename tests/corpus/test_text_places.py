"""Where a text of a concept set is said to be found, it is found."""

from corpus import states
from corpus.concept_sets import load
from corpus.text_places import places


def test_every_text_of_the_states_is_where_it_is_said_to_be() -> None:
    texts = load("states")
    found = places(texts)
    assert len(found) == len(texts.texts) == len(set(found))
    for place, (_, text) in zip(found, texts.texts, strict=True):
        name, _, number = place.partition(" paragraph ")
        paragraphs = states.paragraphs((states.HERE / name).read_text(encoding="utf-8"))
        assert paragraphs[int(number or 1) - 1] == text


def test_the_texts_of_the_world_are_numbered_by_concept() -> None:
    texts = load("world")
    found = places(texts)
    assert len(found) == len(set(found)) == len(texts.texts)
    assert found[0] == f"{texts.concepts[0]} 1" and any(place.startswith("ordinary talk") for place in found)
