"""Each metric of quality finds what was planted, and finds nothing in noise."""

import numpy as np
import pytest
from planted import HIDDEN, NAMES, directions, mislabelled, noise, texts, vectors

from agents.readout.concept_vectors import concept_vectors
from agents.readout.quality import metrics
from agents.readout.quality.labelled_activations import LabelledActivations, label_activations, unit

SEEDS = (2, 3, 4)


def components(labelled: LabelledActivations) -> list[metrics.FirstComponent]:
    return metrics.first_components(labelled, vectors(labelled), metrics.draw_random_texts(labelled))


def test_the_vectors_are_those_that_the_readout_is_trained_with() -> None:
    labelled = texts(baselines=0)
    labels = [NAMES[concept] for concept in labelled.labels]
    assert vectors(labelled) == pytest.approx(concept_vectors(labelled.activations, labels, NAMES))


def test_a_planted_direction_is_clean_and_is_the_vector() -> None:
    labelled = texts()
    for component in components(labelled):
        assert component.share > 0.7 and component.cosine > 0.99 and component.share > component.by_chance


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_is_fragmented_like_random_texts(seed: int) -> None:
    labelled = noise(seed=seed)
    over = [component.share > component.by_chance for component in components(labelled)]
    assert sum(over) <= 1 and all(component.share < 0.4 for component in components(labelled))


def test_a_stream_that_is_wide_in_one_direction_raises_chance_as_much_as_noise() -> None:
    """In the residual streams of real models all texts lie along one direction, whatever they say."""
    labelled = noise(per_concept=3)
    labelled.activations[:] += np.outer(
        np.random.default_rng(1).normal(size=len(labelled.labels)), 9 * directions()[0]
    )
    for component in components(label_activations(labelled.activations, _labels(labelled), NAMES)):
        assert component.share > 0.7 and component.by_chance > 0.95


def test_two_texts_of_noise_are_not_called_clean() -> None:
    labelled = noise(per_concept=2)
    assert all(0.5 <= component.share < 0.7 for component in components(labelled))


def test_a_concept_of_two_unlike_kinds_of_text_is_not_clean() -> None:
    rows = directions(7)
    labelled = texts(rows[:6])
    half = labelled.of(0)[::2]
    labelled.activations[half] += 3 * (rows[6] - rows[0])
    first, *others = components(label_activations(labelled.activations, _labels(labelled), NAMES))
    assert first.share < 0.65 < 0.7 < min(other.share for other in others)


def test_the_cosine_shows_texts_along_another_line_than_the_vector() -> None:
    """One direction explains the texts, but they lie on both sides of it, so it is not their mean."""
    labelled = noise()
    mine = labelled.of(0)
    labelled.activations[mine] += np.outer(np.where(np.arange(len(mine)) % 2, 5.0, -5.0), directions()[0])
    changed = label_activations(labelled.activations, _labels(labelled), NAMES)
    component = components(changed)[0]
    assert component.share > 0.7 and component.cosine < 0.5


def test_a_mislabelled_story_is_the_worst_outlier() -> None:
    wrong = mislabelled(texts(), text=3, concept=4)
    aligned = metrics.alignment(wrong)
    worst = metrics.outliers(wrong, aligned)
    assert worst[4][0].index == 3 and worst[4][0].value < 0.2 < 0.6 < worst[4][1].value
    assert all(one.value > 0.6 for index in (0, 1, 2, 3, 5) for one in worst[index])


def test_stories_of_noise_are_not_aligned_though_the_vector_was_made_of_them() -> None:
    for per_concept in (2, 12):
        labelled = noise(per_concept=per_concept)
        aligned = metrics.alignment(labelled)
        shown = labelled.labels >= 0
        assert np.isnan(aligned[~shown]).all() and abs(np.mean(aligned[shown])) < 0.1
        itself = (unit(labelled.offsets(0)) * vectors(labelled)[0]).sum(axis=1)
        assert itself.mean() > 0.25  # as it would seem with the vector that they made


def test_alignment_is_the_cosine_with_the_vector_computed_without_the_story() -> None:
    labelled = texts()
    rest = np.delete(np.arange(len(labelled.labels)), 5)
    negatives = labelled.activations[labelled.labels != 0].mean(axis=0)
    vector = labelled.activations[rest][labelled.labels[rest] == 0].mean(axis=0) - negatives
    offset = labelled.activations[5] - negatives
    by_hand = vector @ offset / np.linalg.norm(vector) / np.linalg.norm(offset)
    assert metrics.alignment(labelled)[5] == pytest.approx(by_hand)


def test_a_concept_that_one_neuron_writes_is_found_with_its_sign_and_others_are_not() -> None:
    labelled = texts()
    down = np.random.default_rng(5).normal(size=(HIDDEN, 384))
    down[:, 200] = -7 * (vectors(labelled)[2] + 0.3 * directions(7)[6])
    best = metrics.nearest_neurons(labelled, vectors(labelled), down, metrics.draw_random_texts(labelled))
    assert best[2].index == 200 and best[2].cosine < -0.9 and best[2].by_chance < 0.8
    assert all(abs(one.cosine) < 0.6 for index, one in enumerate(best) if index != 2)


def test_chance_is_high_for_a_neuron_that_writes_along_common_variation() -> None:
    labelled = noise()
    labelled.activations[:] += np.outer(
        np.random.default_rng(1).normal(size=len(labelled.labels)), 9 * directions()[0]
    )
    wide = label_activations(labelled.activations, _labels(labelled), NAMES)
    down = np.random.default_rng(5).normal(size=(HIDDEN, 384))
    down[:, 3] = directions()[0]
    for one in metrics.nearest_neurons(wide, vectors(wide), down, metrics.draw_random_texts(wide)):
        assert one.by_chance > 0.9


def test_the_nearest_concept_of_a_planted_pair_is_its_twin_and_none_is_its_own() -> None:
    rows = directions()
    rows[1] = unit(rows[0] + 0.3 * rows[1])
    neighbours = metrics.nearest_concepts(vectors(texts(rows)))
    assert neighbours[0][0].index == 1 and neighbours[1][0].index == 0 and neighbours[0][0].value > 0.8
    assert all(
        len(row) == 5 and index not in [one.index for one in row] for index, row in enumerate(neighbours)
    )
    assert all(list(row) == sorted(row, key=lambda one: -one.value) for row in neighbours)


def test_a_planted_pair_is_redundant_and_names_each_other() -> None:
    rows = directions()
    rows[1] = rows[0]
    labelled = texts(rows, strength=6.0)
    result = metrics.redundancy(labelled, vectors(labelled))
    for one, twin in ((0, 1), (1, 0)):
        assert result[one].r2 > 0.9
        assert result[one].contributors[0].index == twin and result[one].contributors[0].value > 0.5
    assert all(redundancy.r2 < 0.5 for redundancy in result[2:])


def test_the_opposite_of_a_concept_is_explained_by_it_with_a_negative_sign() -> None:
    """It also has terms shared by both: the penalty on so many terms lowers R^2 a little."""
    rows = directions()
    rows[1] = -rows[0]
    labelled = texts(rows, strength=9.0)
    result = metrics.redundancy(labelled, vectors(labelled))[1]
    assert result.r2 > 0.8 and result.contributors[0].index == 0 and result.contributors[0].value < -0.5


@pytest.mark.parametrize("strength", [0.0, 3.0])
def test_unrelated_concepts_are_not_redundant_although_their_vectors_sum_to_zero(
    strength: float,
) -> None:
    labelled = texts(strength=strength, baselines=0)
    differences = vectors(labelled)
    fit = np.linalg.lstsq(differences[1:].T, differences[0], rcond=None)[0]
    assert fit @ differences[1:] == pytest.approx(differences[0])  # what a plain regression would find
    for redundancy in metrics.redundancy(labelled, differences):
        assert redundancy.r2 < 0.3 and redundancy.by_chance == pytest.approx(4 / HIDDEN, rel=0.1)


def test_the_regression_is_a_ridge_with_its_penalty() -> None:
    labelled = texts()
    result = metrics.redundancy(labelled, vectors(labelled))[0]
    others = np.flatnonzero(labelled.labels != 0)
    rest = label_activations(
        labelled.activations[others], [_labels(labelled)[text] for text in others], NAMES
    )
    basis = vectors(rest)[1:].T
    solved = np.linalg.solve(basis.T @ basis + metrics.LAMBDA * np.eye(5), basis.T @ vectors(labelled)[0])
    coefficients = {one.index: one.value for one in result.contributors}
    assert [coefficients[index] for index in range(1, 6)] == pytest.approx(solved, abs=1e-5)
    residual = vectors(labelled)[0] - basis @ solved
    assert result.r2 == pytest.approx(1 - residual @ residual, abs=1e-5)


def _labels(labelled: object) -> list[str | None]:
    return [None if concept < 0 else NAMES[concept] for concept in labelled.labels]  # type: ignore[attr-defined]
