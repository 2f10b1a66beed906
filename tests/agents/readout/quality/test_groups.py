"""Clusters and leave-one-out accuracy: planted structure is found, and chance is reported as chance."""

import numpy as np
import pytest
from planted import NAMES, directions, mislabelled, noise, texts, vectors

from agents.readout.concept_vectors import concept_vectors, scores
from agents.readout.quality.groups import classified_correctly, cohesion
from agents.readout.quality.labelled_activations import unit

CLUSTERS = {"warm": (0, 1, 2), "cold": (3, 4, 5)}


def test_a_planted_cluster_holds_together_and_a_random_one_does_not() -> None:
    rows, shared = directions(6), directions(8)[6:]
    rows = unit(rows + 2 * np.repeat(shared, 3, axis=0))
    cohesions = cohesion(vectors(texts(rows)), CLUSTERS)
    assert all(one.gap > 0.8 and one.members == 3 for one in cohesions.values())
    mixed = cohesion(vectors(texts(rows)), {"mixed": (0, 2, 4)})
    assert mixed["mixed"].gap < 0.2
    assert all(abs(one.gap) < 0.2 for one in cohesion(vectors(noise()), CLUSTERS).values())


def test_cohesion_is_the_difference_of_two_mean_cosines() -> None:
    cohesions = cohesion(
        np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]), {"pair": (0, 1), "alone": (2,), "all": (0, 1, 2)}
    )
    assert cohesions.keys() == {"pair"}
    assert (cohesions["pair"].within, cohesions["pair"].between) == pytest.approx((0.6, 0.4))
    assert cohesions["pair"].gap == pytest.approx(0.2)


def test_the_leave_one_out_accuracy_equals_that_of_vectors_computed_for_each_text() -> None:
    for strength in (0.0, 0.3, 3.0):
        labelled = texts(strength=strength, per_concept=6)
        labels = [None if concept < 0 else NAMES[concept] for concept in labelled.labels]
        hits = []
        for text, concept in enumerate(labelled.labels):
            rest = np.delete(labelled.activations, text, axis=0)
            vectors_without = concept_vectors(rest, labels[:text] + labels[text + 1 :], NAMES)
            best = scores(labelled.activations[text : text + 1] - rest.mean(axis=0), vectors_without).argmax()
            hits.append(concept >= 0 and best == concept)
        assert list(classified_correctly(labelled)) == hits


def test_planted_stories_are_classified_noise_is_not_and_a_baseline_never_counts() -> None:
    labelled = texts()
    hits = classified_correctly(labelled)
    assert hits[labelled.labels >= 0].all() and not hits[labelled.labels < 0].any()
    by_chance = [classified_correctly(noise(seed=seed))[:72].mean() for seed in (2, 3, 4)]
    assert np.mean(by_chance) < 0.35  # chance is 1/6


def test_a_mislabelled_story_is_not_classified_as_its_label() -> None:
    hits = classified_correctly(mislabelled(texts(), text=3, concept=4))
    assert not hits[3] and hits[np.r_[0:3, 4:72]].all()
