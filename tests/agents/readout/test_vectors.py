"""Concept vectors: a direction that was planted is found, and one that is not there is not."""

import numpy as np
import pytest

from agents.readout.vectors import Array, accuracy, concept_vectors, scores

CONCEPTS = ("agreeing", "asking", "guessing")
HIDDEN = 64


def planted(strength: float, *, per_concept: int = 24, seed: int = 1) -> tuple[Array, list[str], Array]:
    """Activations with a direction for each concept, their labels, and the directions `(n_concepts, hidden)`."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(HIDDEN, len(CONCEPTS))))[0].T
    labels = [concept for concept in CONCEPTS for _ in range(per_concept)]
    noise = rng.normal(size=(len(labels), HIDDEN)) / np.sqrt(HIDDEN)
    common = 10 * rng.normal(size=HIDDEN)  # what all texts share must not show
    rows = np.repeat(np.arange(len(CONCEPTS)), per_concept)
    return common + noise + strength * directions[rows], labels, directions


def test_a_planted_direction_is_found() -> None:
    activations, labels, directions = planted(3.0)
    found = concept_vectors(activations, labels, CONCEPTS)
    assert found.shape == (3, HIDDEN) and np.linalg.norm(found, axis=1) == pytest.approx(np.ones(3))
    for index, vector in enumerate(found):
        others = directions[[i for i in range(3) if i != index]].mean(axis=0)
        wanted = directions[index] - others
        assert vector @ wanted / np.linalg.norm(wanted) > 0.99


def test_vectors_are_the_difference_of_means_computed_by_hand() -> None:
    activations = np.array([[3.0, 0.0], [5.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    found = concept_vectors(activations, ["a", "a", "b", "b"], ("a", "b"))
    direction = np.array([4.0, -2.0]) / np.sqrt(20)
    assert found == pytest.approx(np.stack([direction, -direction]))


def test_a_shift_of_all_texts_and_the_order_of_texts_change_no_vector() -> None:
    activations, labels, _ = planted(1.0)
    found = concept_vectors(activations, labels, CONCEPTS)
    order = np.random.default_rng(2).permutation(len(labels))
    shuffled = concept_vectors(activations[order] + 100.0, [labels[i] for i in order], CONCEPTS)
    assert shuffled == pytest.approx(found, abs=1e-9)


def test_a_score_is_the_projection_and_moves_as_far_as_the_text_moves() -> None:
    activations, labels, _ = planted(1.0)
    vectors = concept_vectors(activations, labels, CONCEPTS)
    before, after = scores(activations, vectors), scores(activations + 2.5 * vectors[1], vectors)
    assert before.shape == (72, 3)
    assert after[:, 1] - before[:, 1] == pytest.approx(np.full(72, 2.5))


def test_accuracy_is_high_where_concepts_are_planted_and_chance_where_none_is() -> None:
    strong, labels, _ = planted(3.0)
    assert accuracy(strong, labels, CONCEPTS) == 1.0
    for seed in (1, 2, 3):
        nothing, labels, _ = planted(0.0, seed=seed)
        assert 0.1 < accuracy(nothing, labels, CONCEPTS) < 0.6


def test_accuracy_is_taken_on_texts_that_the_vectors_were_not_made_from() -> None:
    """With few texts in many dimensions, vectors made from the text itself would always find it again."""
    honest = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        activations, labels = rng.normal(size=(30, 1000)), [CONCEPTS[index % 3] for index in range(30)]
        own = scores(activations - activations.mean(axis=0), concept_vectors(activations, labels, CONCEPTS))
        assert [CONCEPTS[int(row.argmax())] for row in own] == labels
        honest.append(accuracy(activations, labels, CONCEPTS))
    assert 0.15 < np.mean(honest) < 0.55  # chance is 1/3
