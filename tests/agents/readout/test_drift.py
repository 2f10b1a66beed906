"""The joint movement of readings, on planted probe sets whose distance is known."""

import numpy as np
import pytest

from agents.readout.drift import joint, shrunk_correlation


def standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean(axis=0)) / values.std(axis=0)


def test_independent_concepts_that_each_move_by_one_deviation_are_one_apart() -> None:
    before = np.random.default_rng(0).normal(size=(4000, 6)) * [1, 5, 0.1, 3, 2, 7] + 4
    result = joint(before, before + before.std(axis=0), list("abcdef"))
    assert result.distance == pytest.approx(1.0, abs=0.03)
    assert sum(result.parts.values()) == pytest.approx(result.distance**2)
    assert joint(before, before, list("abcdef")).distance == 0.0


def test_correlated_concepts_count_once_and_moves_against_their_correlation_count_much() -> None:
    rng = np.random.default_rng(1)
    one = rng.normal(size=2000)
    before = np.stack([one + 0.2 * rng.normal(size=2000), one + 0.2 * rng.normal(size=2000)], axis=1)
    deviation = before.std(axis=0)
    same, apart = (
        joint(before, before + 0.3 * deviation * np.array(signs), "ab").distance
        for signs in ([1, 1], [1, -1])
    )
    # eigenvalues of their correlation r: 1 + r along the diagonal, 1 - r across it
    r = np.corrcoef(before.T)[0, 1]
    assert same == pytest.approx(0.3 / np.sqrt(1 + r), rel=0.02)
    assert apart == pytest.approx(0.3 / np.sqrt(1 - r), rel=0.05) and apart > 4 * same


def test_many_small_moves_are_seen_with_fewer_texts_than_concepts_and_the_largest_is_named_first() -> None:
    rng = np.random.default_rng(2)
    before = rng.normal(size=(48, 8)) @ rng.normal(size=(8, 199)) + rng.normal(size=(48, 199))
    names = [str(number) for number in range(199)]
    small = np.full(199, 0.3)
    small[7] = 0.9
    moved = joint(before, before + small * rng.choice([-1, 1], 199) * before.std(axis=0), names)
    assert moved.distance > 0.3 and next(iter(moved.parts)) == "7"
    only = np.zeros(199)
    only[7] = 0.9
    assert joint(before, before + only * before.std(axis=0), names).distance < moved.distance / 2


def test_the_correlation_is_shrunk_as_ledoit_and_wolf_define() -> None:
    rows = standard(
        np.random.default_rng(3).normal(size=(20, 5)) @ np.random.default_rng(4).normal(size=(5, 5))
    )
    n, p = rows.shape
    sample = rows.T @ rows / n
    mean = np.trace(sample) / p
    deviation = ((sample - mean * np.eye(p)) ** 2).sum() / p
    error = min(deviation, sum(((np.outer(row, row) - sample) ** 2).sum() / p for row in rows) / n**2)
    wanted = error / deviation * mean * np.eye(p) + (deviation - error) / deviation * sample
    assert np.allclose(shrunk_correlation(rows), wanted) and 0 < error < deviation
    assert (
        np.linalg.eigvalsh(shrunk_correlation(standard(np.random.default_rng(5).normal(size=(10, 30))))).min()
        > 0
    )


def test_a_concept_without_variation_in_the_probe_set_counts_by_its_own_move() -> None:
    before = np.random.default_rng(6).normal(size=(50, 3))
    before[:, 1] = 2.0
    after = before.copy()
    assert joint(before, after, "abc").distance == 0.0
    after[:, 1] += 1e-3
    assert joint(before, after, "abc").distance > 100
