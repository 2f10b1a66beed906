"""The parts of a batch on vLLM that need no vLLM."""

import pytest

from agents.model.vllm.routes.batch import signed


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1])
def test_every_seed_is_valid_for_vllm_and_none_means_no_seed(seed: int) -> None:
    taken = signed(seed)
    assert -(2**63) <= taken < 2**63 and taken != -1
    assert taken % 2**64 == seed or seed == 2**64 - 1, "-1 means no seed to vLLM"
