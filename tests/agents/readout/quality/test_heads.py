"""A planted head is found with its length; in noise no head stands out."""

import numpy as np
import pytest
from planted import HIDDEN, NAMES, noise, vectors

from agents.readout.concept_vectors import Numbers
from agents.readout.quality.attention_heads import HeadContributions, head_contributions, writing_heads
from agents.readout.quality.labelled_activations import LabelledActivations, label_activations

HEADS, WIDTH = 8, 16


def layer(written_by: int | None, *, seed: int = 7) -> tuple[Numbers, Numbers, LabelledActivations]:
    """Return input and weight of an output projection, and the stream after it; one head writes concept 0."""
    rng = np.random.default_rng(seed)
    plain = noise(per_concept=12)
    inputs = rng.normal(size=(len(plain.labels), HEADS, WIDTH))
    weight = rng.normal(size=(HIDDEN, HEADS * WIDTH)) / np.sqrt(HIDDEN)
    if written_by is not None:
        inputs[plain.labels == 0, written_by, 4] += 12.0
    stream = plain.activations + inputs.reshape(len(inputs), -1) @ weight.T
    return (
        inputs,
        weight,
        label_activations(stream, [None if c < 0 else NAMES[c] for c in plain.labels], NAMES),
    )


def test_the_contributions_of_all_heads_add_up_to_the_attention() -> None:
    inputs, weight, labelled = layer(3)
    only = [np.where(np.arange(HEADS)[None, :, None] == head, inputs, 0) for head in range(HEADS)]
    whole = inputs.reshape(len(inputs), -1) @ weight.T
    assert sum(one.reshape(len(one), -1) @ weight.T for one in only) == pytest.approx(whole)
    by_hand = [
        label_activations(one.reshape(len(one), -1) @ weight.T, _labels(labelled), NAMES).differences
        for one in only
    ]
    assert head_contributions(inputs, weight, labelled, vectors(labelled)).norm == pytest.approx(
        np.stack([np.linalg.norm(one, axis=1) for one in by_hand], axis=1), rel=1e-3
    )


def test_a_planted_head_is_first_with_its_length_and_sets_the_concept_apart() -> None:
    inputs, weight, labelled = layer(3)
    result = writing_heads({5: head_contributions(inputs, weight, labelled, vectors(labelled))}, concept=0)
    first = result.top[0]
    assert (first.layer, first.head) == (5, 3) and result.count == HEADS
    assert first.norm == pytest.approx(12 * np.linalg.norm(weight[:, 3 * WIDTH + 4]), rel=0.15)
    assert first.selectivity > 5 > max(abs(other.selectivity) for other in result.top[1:])
    assert result.concentration > 0.7


@pytest.mark.parametrize("seed", [7, 8, 9])
def test_noise_has_no_head_that_stands_out(seed: int) -> None:
    inputs, weight, labelled = layer(None, seed=seed)
    layers = {0: head_contributions(inputs, weight, labelled, vectors(labelled))}
    for concept in range(len(NAMES)):
        result = writing_heads(layers, concept)
        assert result.concentration < 2 / HEADS and max(abs(head.selectivity) for head in result.top) < 1.5


def test_selectivity_is_not_inflated_by_a_vector_that_was_made_of_the_same_texts() -> None:
    """In many dimensions, a vector made of two texts of noise separates these two texts."""
    inputs, weight, labelled = layer(None)
    few = np.concatenate([labelled.of(concept)[:2] for concept in range(6)])
    small = label_activations(
        labelled.activations[few], [NAMES[labelled.labels[text]] for text in few], NAMES
    )
    result = head_contributions(inputs[few], weight, small, vectors(small))
    assert abs(result.selectivity.mean()) < 0.4


def test_the_heads_of_several_layers_are_ranked_together_and_ten_are_named() -> None:
    rng = np.random.default_rng(0)
    layers = {n: HeadContributions(norm=rng.random((1, 8)), selectivity=rng.random((1, 8))) for n in (0, 1)}
    layers[1].norm[0, 2] = 50.0
    result = writing_heads(layers, 0)
    assert (
        len(result.top) == 10 and result.count == 16 and (result.top[0].layer, result.top[0].head) == (1, 2)
    )
    assert list(result.top) == sorted(result.top, key=lambda head: -head.norm)


def _labels(labelled: LabelledActivations) -> list[str | None]:
    return [None if concept < 0 else NAMES[concept] for concept in labelled.labels]
