"""Concept vectors: a planted direction is found, and one that was not planted is not."""

import numpy as np
import pytest

from agents.readout.concept_vectors import METHODS, Array, Method, accuracy, concept_vectors, scores
from corpus.errors import UsageError

CONCEPTS = ("agreeing", "asking", "guessing")
HIDDEN = 64


def planted(strength: float, *, per_concept: int = 24, seed: int = 1) -> tuple[Array, list[str], Array]:
    """Return activations with a direction for each concept, labels, and the directions."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(HIDDEN, len(CONCEPTS))))[0].T
    labels = [concept for concept in CONCEPTS for _ in range(per_concept)]
    noise = rng.normal(size=(len(labels), HIDDEN)) / np.sqrt(HIDDEN)
    common = 10 * rng.normal(size=HIDDEN)  # what all texts share must not show
    rows = np.repeat(np.arange(len(CONCEPTS)), per_concept)
    return common + noise + strength * directions[rows], labels, directions


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_direction_is_found(method: Method) -> None:
    activations, labels, directions = planted(3.0)
    estimated = concept_vectors(activations, labels, CONCEPTS, method)
    assert estimated.shape == (3, HIDDEN) and np.linalg.norm(estimated, axis=1) == pytest.approx(np.ones(3))
    for index, vector in enumerate(estimated):
        others = directions[[i for i in range(3) if i != index]].mean(axis=0)
        wanted = directions[index] - others
        assert vector @ wanted / np.linalg.norm(wanted) > 0.98


def test_vectors_are_the_difference_of_means_computed_by_hand() -> None:
    activations = np.array([[3.0, 0.0], [5.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    estimated = concept_vectors(activations, ["a", "a", "b", "b"], ("a", "b"))
    direction = np.array([4.0, -2.0]) / np.sqrt(20)
    assert estimated == pytest.approx(np.stack([direction, -direction]))


@pytest.mark.parametrize("method", METHODS)
def test_a_shift_of_all_texts_and_the_order_of_texts_change_no_vector(method: Method) -> None:
    activations, labels, _ = planted(1.0)
    estimated = concept_vectors(activations, labels, CONCEPTS, method)
    order = np.random.default_rng(2).permutation(len(labels))
    shuffled = concept_vectors(activations[order] + 100.0, [labels[i] for i in order], CONCEPTS, method)
    assert shuffled == pytest.approx(estimated, abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("places", [(-1.0, 3.0, 3.0, 3.0), (3.0, 3.0, 3.0, -1.0)])
def test_a_vector_points_to_where_most_of_its_texts_lie(method: Method, places: tuple[float, ...]) -> None:
    rng = np.random.default_rng(4)
    direction = np.ones(16) / 4
    mine = np.outer(places, direction) + 0.1 * rng.normal(size=(4, 16))
    activations = np.concatenate([mine, 0.1 * rng.normal(size=(4, 16))])
    (estimated,) = concept_vectors(activations, [*"aaaa", *[None] * 4], ("a",), method)
    assert estimated @ direction > 0.5


def test_texts_of_no_concept_are_negatives_of_every_one() -> None:
    activations = np.array([[3.0, 0.0], [5.0, 0.0], [0.0, 1.0], [0.0, 3.0], [0.0, -5.0], [1.0, -7.0]])
    estimated = concept_vectors(activations, ["a", "a", "b", "b", None, None], ("a", "b"))
    assert estimated[0] == pytest.approx(np.array([3.75, 2.0]) / np.hypot(3.75, 2.0))
    assert estimated[1] == pytest.approx(np.array([-2.25, 5.0]) / np.hypot(2.25, 5.0))


def test_the_component_is_that_of_the_positives_and_not_the_difference_of_means() -> None:
    """Positives lie far out on both sides: the mean hardly moves, the component is their line."""
    activations = np.array([[9.0, 1.0], [-8.0, 1.0], [0.0, -1.0], [0.0, -1.0]])
    labels = ["a", "a", None, None]
    mean, component = (concept_vectors(activations, labels, ("a",), method)[0] for method in ("mean", "pca"))
    assert abs(component[0]) > 0.99 > abs(mean[0]) and component @ mean > 0


def test_the_probe_ignores_variation_within_the_concept() -> None:
    """Two values show the concept, one of them hidden by common variation: the probe uses the other."""
    rng = np.random.default_rng(5)
    noise = 10 * rng.normal(size=200)
    shows = np.arange(200) % 2 == 0
    activations = np.stack([noise + 3.0 * shows, shows + 0.1 * rng.normal(size=200)], axis=1)
    labels = ["a" if one else None for one in shows]
    mean, probe = (concept_vectors(activations, labels, ("a",), method)[0] for method in ("mean", "ridge"))
    assert mean[0] > 0.8 and probe[0] < 0.1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        (["a", "a", "b"], "'c' needs texts"),
        (["c", "c", "c"], "needs texts that show it and texts that do not"),
    ],
)
def test_a_concept_without_positives_or_negatives_is_refused(
    method: Method, labels: list[str], fault: str
) -> None:
    with pytest.raises(UsageError, match=fault):
        concept_vectors(np.eye(3), labels, ("c",), method)


@pytest.mark.parametrize("method", METHODS)
def test_a_concept_whose_texts_do_not_differ_from_the_others_has_no_direction(method: Method) -> None:
    same = np.array([[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(UsageError, match="it has no direction"):
        concept_vectors(np.concatenate([same, same]), ["a", "a", None, None], ("a",), method)


def test_a_score_is_the_projection_and_moves_with_the_text() -> None:
    activations, labels, _ = planted(1.0)
    vectors = concept_vectors(activations, labels, CONCEPTS)
    before, after = scores(activations, vectors), scores(activations + 2.5 * vectors[1], vectors)
    assert before.shape == (72, 3)
    assert after[:, 1] - before[:, 1] == pytest.approx(np.full(72, 2.5))


@pytest.mark.parametrize("method", METHODS)
def test_accuracy_is_high_for_planted_concepts_and_chance_for_noise(method: Method) -> None:
    strong, labels, _ = planted(3.0)
    assert accuracy(strong, labels, CONCEPTS, method) == 1.0
    for seed in (1, 2, 3):
        nothing, labels, _ = planted(0.0, seed=seed)
        assert 0.1 < accuracy(nothing, labels, CONCEPTS, method) < 0.6


def test_accuracy_is_computed_on_held_out_texts() -> None:
    """With few texts in many dimensions, vectors made from a text always identify it."""
    honest = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        activations, labels = rng.normal(size=(30, 1000)), [CONCEPTS[index % 3] for index in range(30)]
        own = scores(activations - activations.mean(axis=0), concept_vectors(activations, labels, CONCEPTS))
        assert [CONCEPTS[int(row.argmax())] for row in own] == labels
        honest.append(accuracy(activations, labels, CONCEPTS))
    assert 0.15 < np.mean(honest) < 0.55  # chance is 1/3
