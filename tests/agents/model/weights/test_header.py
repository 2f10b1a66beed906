"""The header of shared weights, as processes without the weights read it."""

from pathlib import Path

import torch

from agents.model.weights.header import WeightsState, read_state
from agents.model.weights.shared import SharedWeights


def test_a_header_is_read_as_its_writer_set_it(tmp_path: Path) -> None:
    place = tmp_path / "weights.bin"
    assert read_state(place) is None
    shared = SharedWeights.create(place, {"a": torch.zeros(3)}, model="m")
    assert read_state(place) == WeightsState(version=0, dirty=False, holds="")
    shared.bump()
    shared.dirty, shared.holds = True, "f" * 64
    assert read_state(place) == WeightsState(version=1, dirty=True, holds="f" * 64)
    place.write_bytes(bytes(5000))
    assert read_state(place) is None
