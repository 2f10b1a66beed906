"""The type that the server computes in, and the copies of the weights that it computes with."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from agents.model.embedded import precision
from agents.model.embedded.precision import dtype_for
from agents.model.embedded.working_weights import WorkingWeights

ALL = frozenset({"amx_bf16", "avx512_bf16"})


def layers(size: int, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return torch.nn.Linear(size, 16, dtype=dtype)


def test_a_configured_type_wins() -> None:
    for name, kind in precision.TYPES.items():
        assert dtype_for(name, layers(64), flags=lambda: ALL) == kind


def test_bfloat16_is_taken_only_where_it_is_quicker_and_hides_no_update(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "SMALL_BYTES", 0)
    times = {torch.float32: 1.0, torch.bfloat16: 0.5}
    monkeypatch.setattr(precision, "_seconds", lambda matrices, dtype: times[dtype])
    model = layers(64)
    assert dtype_for("auto", model, flags=lambda: ALL) == torch.bfloat16
    assert dtype_for("auto", model, flags=frozenset) == torch.float32
    rounded = layers(64)
    rounded.weight.data = rounded.weight.data.bfloat16().float()
    assert dtype_for("auto", rounded, flags=lambda: ALL) == torch.float32
    times[torch.bfloat16] = 0.9
    assert dtype_for("auto", model, flags=lambda: ALL) == torch.float32


def test_a_small_model_keeps_its_type(model: Any) -> None:
    assert dtype_for("auto", model, flags=lambda: ALL) == torch.float32
    assert dtype_for("auto", layers(64, torch.bfloat16), flags=lambda: ALL) == torch.bfloat16


def test_both_types_are_measured_with_the_models_own_matrices() -> None:
    matrices = [torch.randn(32, 64) for _ in range(3)]
    assert precision._seconds(matrices, torch.bfloat16) > 0 < precision._seconds(matrices, torch.float32)


def test_a_copy_follows_the_shared_weights_at_the_next_pass_and_is_never_written_back() -> None:
    version, held = 1, list[bool]()

    @contextmanager
    def lock() -> Iterator[None]:
        held.append(True)
        yield

    weights = WorkingWeights(torch.bfloat16, version=lambda: version, lock=lock)
    shared = torch.randn(4, 4)
    copy = weights.of(shared)
    assert copy.dtype == torch.bfloat16 and copy is weights.of(shared)
    with weights.reading():
        assert copy.equal(shared.bfloat16())
    assert not held  # a pass on copies keeps no writer waiting
    shared.mul_(3.0)
    version += 1
    before = shared.clone()
    with weights.reading():
        assert copy.equal(shared.bfloat16())
    assert held == [True] and shared.equal(before)


def test_weights_in_the_type_of_the_products_are_read_where_they_lie_under_the_lock() -> None:
    held = list[bool]()

    @contextmanager
    def lock() -> Iterator[None]:
        held.append(True)
        yield
        held.append(False)

    weights = WorkingWeights(version=lambda: 0, lock=lock)
    shared, norm = torch.randn(4, 4), torch.ones(4, dtype=torch.bfloat16)
    assert weights.of(shared).data_ptr() == shared.data_ptr()
    assert weights.of(norm).dtype == torch.float32
    with weights.reading():
        assert held == [True]
    assert held == [True, False]
