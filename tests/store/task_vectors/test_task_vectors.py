"""Task vector merging against cases computed by hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from corpus.errors import GateRefused, IntegrityFault
from store.task_vectors.arithmetic import (
    ChangeSize,
    added,
    arithmetic,
    changes,
    difference,
    size_of,
    ties,
    trim,
    values,
)
from store.tensors.numbers import rounded
from store.tensors.raw import RawTensor


def floats(*numbers: float) -> Any:
    return np.array(numbers, np.float32)


def tensor(*numbers: float, dtype: str = "F32") -> RawTensor:
    data = rounded(floats(*numbers), dtype).tobytes()
    return RawTensor(dtype=dtype, shape=(len(numbers),), data=data)


# ---------------------------------------------------------------- task arithmetic


def test_task_arithmetic_adds_the_weighted_vectors() -> None:
    """0.5 * (2, -4, 0) + 2 * (1, 1, 3) = (3, 0, 6)."""
    assert arithmetic([floats(2, -4, 0), floats(1, 1, 3)], [0.5, 2.0]).tolist() == [3, 0, 6]


def test_a_negative_weight_subtracts_a_vector() -> None:
    """(5, 5) - (2, -3) = (3, 8)."""
    assert arithmetic([floats(5, 5), floats(2, -3)], [1.0, -1.0]).tolist() == [3, 8]


# ---------------------------------------------------------------- TIES, step by step


@pytest.mark.parametrize(
    "density, trimmed",
    [
        (1.0, [1, -5, 3, -2, 4]),
        (0.6, [0, -5, 3, 0, 4]),  # 3 of 5
        (0.5, [0, -5, 3, 0, 4]),  # 2.5: half up
        (0.49, [0, -5, 0, 0, 4]),  # 2.45
        (0.2, [0, -5, 0, 0, 0]),
        (0.001, [0, -5, 0, 0, 0]),  # at least one
    ],
)
def test_trimming_keeps_the_share_that_is_largest_in_magnitude(density: float, trimmed: list[float]) -> None:
    assert trim(floats(1, -5, 3, -2, 4), density).tolist() == trimmed


def test_of_equal_magnitudes_at_the_threshold_the_first_are_kept_and_the_count_is_exact() -> None:
    assert trim(floats(2, -1, 1, 1, -1), 0.6).tolist() == [2, -1, 1, 0, 0]
    assert trim(floats(0, 0, 0, 7), 0.5).tolist() == [0, 0, 0, 7]


@pytest.mark.parametrize("size", [1, 2, 7, 100, 1001])
@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 0.9])
def test_trimming_keeps_the_stated_number_and_drops_nothing_larger(size: int, density: float) -> None:
    vector = np.random.default_rng(size).integers(-9, 10, size).astype(np.float32) + np.float32(0.5)
    trimmed = trim(vector, density)
    assert np.count_nonzero(trimmed) == max(1, int(density * size + 0.5))
    dropped = np.abs(vector[trimmed == 0])
    assert dropped.max(initial=0) <= np.abs(trimmed[trimmed != 0]).min()


def test_the_sign_is_elected_by_summed_magnitude_and_the_outvoted_are_not_in_the_mean() -> None:
    """Of (3, -1, -1): the sum is 1, so plus, and 3 alone is averaged. Of (1, 2, -1): (1 + 2) / 2."""
    vectors = [floats(3, 1), floats(-1, 2), floats(-1, -1)]
    assert ties(vectors, [1, 1, 1], 1.0).tolist() == [3, 1.5]


def test_a_tie_in_the_election_elects_no_sign_and_gives_zero() -> None:
    assert ties([floats(2, 1), floats(-2, 1)], [1, 1], 1.0).tolist() == [0, 1]


def test_zeros_are_not_counted_in_the_mean() -> None:
    """(4, 0, 2): 3, not 2. All zero: zero."""
    assert ties([floats(4, 0), floats(0, 0), floats(2, 0)], [1, 1, 1], 1.0).tolist() == [3, 0]


def test_trimmed_elements_have_no_vote_and_no_part_in_the_mean() -> None:
    """First places 9, -2, -8: they sum to -1, so (-2 - 8) / 2; without the -2, which is trimmed, 9 wins."""
    assert ties([floats(9, 1), floats(-2, -8), floats(-8, 3)], [1, 1, 1], 1.0).tolist() == [-5, -8]
    assert ties([floats(9, 1), floats(-2, -8), floats(-8, 3)], [1, 1, 1], 0.5).tolist() == [9, -8]


def test_weights_are_applied_before_the_election_and_scale_the_mean() -> None:
    """(3, 1) of weights 1 and 4 against -2 of weight 2: 3 + 4 > 4, so plus, and (3 + 4) / 2 = 3.5."""
    assert ties([floats(3), floats(1), floats(-2)], [1, 4, 2], 1.0).tolist() == [3.5]
    assert ties([floats(3), floats(1), floats(-2)], [1, 1, 3], 1.0).tolist() == [-6]


def test_a_negative_weight_votes_for_the_opposite_sign() -> None:
    """5 * -1 = -5 against 2: minus, and -5. With 2 * -1 against 5: plus, and 5: it has been outvoted."""
    assert ties([floats(5, 2), floats(2, 5)], [-1, 1], 1.0).tolist() == [-5, 5]
    assert ties([floats(4, -6)], [-0.5], 1.0).tolist() == [-2, 3]


def test_a_complete_ties_merge_computed_by_hand() -> None:
    """Density 0.5 of 4: two of each are kept.

    (4, -3, 1, 0) -> (4, -3, 0, 0);  (-1, -5, 2, 0) -> (0, -5, 2, 0), times 2: (0, -10, 4, 0);
    (6, 1, -7, 0) -> (6, 0, -7, 0), times -1: (-6, 0, 7, 0).
    Sums (-2, -13, 11, 0). Means of those that agree: -6; (-3 - 10) / 2 = -6.5; (4 + 7) / 2 = 5.5; 0.
    """
    vectors = [floats(4, -3, 1, 0), floats(-1, -5, 2, 0), floats(6, 1, -7, 0)]
    assert ties(vectors, [1, 2, -1], 0.5).tolist() == [-6, -6.5, 5.5, 0]


# ---------------------------------------------------------------- numbers as they are stored


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_change_is_added_in_float32_and_stored_in_the_tensors_own_type(dtype: str) -> None:
    got = added(tensor(1.0, -2.0, 0.5, dtype=dtype), floats(0.5, 0.25, -0.5))
    assert got.dtype == dtype and got.shape == (3,) and values(got).tolist() == [1.5, -1.75, 0]


def test_a_change_too_small_for_the_type_is_rounded_away_and_half_a_unit_goes_to_the_even_side() -> None:
    start = tensor(1.0, 1.0 + 2**-7, dtype="BF16")  # 0x3F80, 0x3F81
    assert added(start, floats(2**-9, 2**-9)).data == start.data
    assert values(added(start, floats(2**-8, 2**-8))).tolist() == [1.0, 1.0 + 2**-6]


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_an_element_that_no_vector_moves_keeps_its_bits(dtype: str) -> None:
    start = tensor(-0.0, 0.0, 3.0, dtype=dtype)
    assert added(start, floats(0, -0.0, 0)).data == start.data


@pytest.mark.parametrize("start, change", [(3e38, 3e38), (1.0, np.nan), (1.0, np.inf)])
def test_weights_that_would_not_be_finite_are_refused(start: float, change: float) -> None:
    with pytest.raises(GateRefused, match="not finite; nothing was kept"):
        added(tensor(start), floats(change))


def test_a_type_that_is_not_a_weight_type_is_refused() -> None:
    with pytest.raises(GateRefused, match="I64 cannot be merged"):
        added(RawTensor(dtype="I64", shape=(1,), data=bytes(8)), floats(1))


# ---------------------------------------------------------------- whole weights


def test_a_vector_added_to_its_start_gives_its_end_bit_for_bit_in_bfloat16() -> None:
    draw = np.random.default_rng(3)
    start = tensor(*draw.normal(size=500), dtype="BF16")
    end = tensor(*(values(start) + draw.normal(size=500) * 0.01), dtype="BF16")
    ((_, change),) = changes(["w"], [({"w": start}, {"w": end})], [1.0], "arithmetic", 1.0)
    assert added(start, change).data == end.data != start.data


def test_each_tensor_is_trimmed_by_itself() -> None:
    start = {"a": tensor(0, 0), "b": tensor(0, 0)}
    end = {"a": tensor(100, 90), "b": tensor(1, 2)}
    got = {name: change.tolist() for name, change in changes(["a", "b"], [(start, end)], [1.0], "ties", 0.5)}
    assert got == {"a": [100, 0], "b": [0, 2]}


@pytest.mark.parametrize("end", [{}, {"w": tensor(1, 2, 3)}])
def test_checkpoints_of_different_models_have_no_difference(end: dict[str, RawTensor]) -> None:
    with pytest.raises(IntegrityFault, match="different models"):
        difference("w", end, {"w": tensor(1, 2)})


def test_the_norm_of_a_change_computed_by_hand() -> None:
    """sqrt(9 + 16) = 5, and with another of norm 12: 13."""
    parts: Sequence[ChangeSize] = (size_of(floats(3, 0, -4)), size_of(floats(12)))
    assert parts[0] == ChangeSize(norm=5.0, changed=2, elements=3)
    assert sum(parts, ChangeSize()) == ChangeSize(norm=13.0, changed=3, elements=4)
