"""A behaviour's vector: a planted direction is found, and dreams without a contrast are left out."""

import numpy as np
import pytest

from agents.readout.behaviour_vectors import MINIMUM, JudgedAnswer, contrasting, direction, require
from corpus.errors import GateRefused

HIDDEN = 32


def answers(dream: str, *passed: bool) -> list[JudgedAnswer]:
    return [
        JudgedAnswer(dream_id=dream, messages=[], text=str(n), passed=one) for n, one in enumerate(passed)
    ]


def test_a_planted_direction_is_found_whatever_the_requests_are_like() -> None:
    rng = np.random.default_rng(3)
    planted = rng.normal(size=HIDDEN)
    planted /= np.linalg.norm(planted)
    dreams = [name for name in "abcdefghij" for _ in range(4)]
    # The harder a request, the rarer it is passed and the further away it lies: a plain mean finds requests.
    passed = [n % 4 < (1 if n < 20 else 3) for n in range(len(dreams))]
    requests = {
        name: rng.normal(size=HIDDEN) + (30.0 * np.eye(HIDDEN)[0] if name < "f" else 0.0)
        for name in "abcdefghij"
    }
    stream = np.stack([requests[d] + 4.0 * p * planted for d, p in zip(dreams, passed, strict=True)])
    stream += 0.1 * rng.normal(size=stream.shape)
    estimated = direction(stream, dreams, passed)
    assert np.linalg.norm(estimated) == pytest.approx(1.0) and estimated @ planted > 0.99
    good = np.array(passed)
    plain = stream[good].mean(axis=0) - stream[~good].mean(axis=0)
    assert abs(plain @ planted) / np.linalg.norm(plain) < 0.5
    assert direction(stream, dreams, [not one for one in passed]) @ planted < -0.99


def test_dreams_whose_answers_are_all_of_one_kind_are_left_out() -> None:
    mixed = answers("a", True, False)
    assert contrasting([*mixed, *answers("b", True, True), *answers("c", False)]) == mixed


def test_too_few_dreams_are_refused_with_how_many_are_missing_and_what_to_run() -> None:
    enough = [one for n in range(MINIMUM) for one in answers(str(n), True, False)]
    assert require("listen", enough) == enough
    with pytest.raises(GateRefused, match=r"8 dreams .* there are 7: 1 are missing. `nightschool night`"):
        require("listen", enough[:-1])
