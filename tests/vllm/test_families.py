"""Each family that can be trained, and models that cannot, as tiny models served by the real vLLM."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
TRAINED = ["qwen3-tied", "qwen3", "llama", "qwen2", "qwen3.5", "qwen3.5-sees"]
HYBRID = ["qwen3.5", "qwen3.5-sees"]
REFUSED = {
    "moe": "mixture of experts",
    "unknown family": "models of type 'gemma' cannot be trained on vLLM yet",
    "quantized": "quantized weights",
    "two pieces": "--tensor-parallel-size 1",
    "overridden": "--hf-overrides",
}
EVERY = [*TRAINED, "draft", "narrowed", *REFUSED]
LONGEST_S = 900.0
"""Longest run of all of them: some 2 minutes alone on 2 cores."""
Seen = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the results of `models_in_turn.py`."""
    folder = tmp_path_factory.mktemp("families")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "agents" / "model")]),
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    command = [sys.executable, str(Path(__file__).with_name("models_in_turn.py")), str(folder), *EVERY]
    with (folder / "all.log").open("wb") as log:
        subprocess.run(command, env=environment, stdout=log, stderr=log, timeout=LONGEST_S, check=True)
    return folder


@pytest.fixture(scope="module")
def seen(folder: Path) -> Seen:
    def of(case: str) -> dict[str, Any]:
        path = folder / f"{case}.json"
        assert path.exists(), (folder / f"{case}.log").read_text(errors="replace")[-3000:]
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    return of


def furthest(some: list[float], others: list[float]) -> float:
    return max(abs(one - other) for one, other in zip(some, others, strict=True))


@pytest.mark.parametrize("case", TRAINED)
def test_every_served_view_is_the_parameter_on_disk_bit_for_bit(seen: Seen, case: str) -> None:
    found = seen(case)
    assert found["differing"] == []
    assert found["named"]


@pytest.mark.parametrize("case", [case for case in TRAINED if case not in HYBRID])
def test_in_float32_server_and_trainer_agree_on_every_log_probability(seen: Seen, case: str) -> None:
    found = seen(case)
    assert furthest(found["served"], found["trainer"]) < 1e-4


@pytest.mark.parametrize("case", HYBRID)
def test_in_bfloat16_the_server_of_a_hybrid_is_as_near_to_exact_arithmetic_as_the_trainer(
    seen: Seen, case: str
) -> None:
    """A convolution's weight read in the wrong order puts it off by 5, rounding by some 0.1."""
    found = seen(case)
    assert furthest(found["trainer"], found["exact"]) < 0.25
    assert furthest(found["served"], found["exact"]) < 0.25
    assert found["dtypes"] == ["A_log float32", "dt_bias bfloat16", "weight bfloat16"]


@pytest.mark.parametrize("case", TRAINED)
def test_an_edit_of_any_kind_of_parameter_is_served_and_undone_exactly(seen: Seen, case: str) -> None:
    edits = seen(case)["edits"]
    assert len(edits) >= 12
    assert {name for name, (changed, undone) in edits.items() if not (changed and undone)} == set()


@pytest.mark.parametrize("case", TRAINED)
def test_a_checkpoint_of_the_directory_is_restored_into_the_served_weights(seen: Seen, case: str) -> None:
    assert seen(case)["restored"]


def test_a_directory_that_loses_bits_in_the_served_type_is_not_restored(seen: Seen) -> None:
    found = seen("narrowed")
    assert "of which bfloat16 would lose bits" in found["said"] and "--dtype float32" in found["said"]
    assert not found["dirty"]


def test_a_draft_model_is_left_alone(seen: Seen, folder: Path) -> None:
    found = seen("draft")
    assert found["differing"] == [] and found["named"]
    assert furthest(found["served"], found["trainer"]) < 1e-4
    assert (folder / "draft.log").read_text().count("bytes of weights shared") == 1


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_cannot_be_trained_is_served_and_the_reason_is_logged_once(
    seen: Seen, folder: Path, case: str
) -> None:
    found = seen(case)
    assert len(found["tokens"]) == 8
    assert REFUSED[case] in found["refused"]
    assert not found["shared"]
    said = [line for line in (folder / f"{case}.log").read_text().splitlines() if "nightschool: " in line]
    assert len(said) == 1 and "ERROR" in said[0] and REFUSED[case] in said[0]
