"""The monitor's files: vectors of another model or version are refused, not read."""

import json
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from safetensors.numpy import save_file

from agents.readout.monitor import DEPTH, Monitor
from corpus.errors import IntegrityFault
from corpus.world.concepts import CONCEPTS


class OnlyTokens:
    """A served model that tokenizes a text as its letters, for what never gets further."""

    async def tokenize_texts(self, texts: list[str]) -> list[list[int]]:
        return [[ord(letter) for letter in text] for text in texts]


def monitor(place: Path, layers: int = 4) -> Monitor:
    return Monitor(model=OnlyTokens(), trainer=None, directory=place, layers=lambda: layers)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change", [{"concepts": ["joy"]}, {"concepts": list(reversed(CONCEPTS))}, {"layers": [1]}, {"layers": [2, 3]}]
)
def test_vectors_of_another_model_are_refused_with_the_cure(tmp_path: Path, change: dict[str, Any]) -> None:
    looking = monitor(tmp_path)
    card = {"concepts": list(CONCEPTS), "layers": [looking.layer], **change}
    (tmp_path / "readout.json").write_text(json.dumps(card))
    save_file({f"layer_{looking.layer}.vectors": np.zeros((3, 8), np.float32)}, tmp_path / "readout.safetensors")
    with pytest.raises(IntegrityFault, match="delete it to have the vectors made anew"):
        anyio.run(looking.read, "0" * 64)


@pytest.mark.parametrize("layers", [1, 2, 4, 28, 64])
def test_the_layer_that_is_read_is_past_the_middle_and_is_there(tmp_path: Path, layers: int) -> None:
    layer = monitor(tmp_path, layers).layer
    assert 0 <= layer < layers and abs(layer - DEPTH * layers) <= 1
