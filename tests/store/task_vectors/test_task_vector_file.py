"""A task vector between checkpoint files: its norms by kind of weight, and the file that holds it."""

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from corpus.errors import IntegrityFault, UsageError
from store.checkpoints.store import CheckpointStore
from store.task_vectors.arithmetic import ChangeSize, Part
from store.task_vectors.file import MergedTaskVector, write_new
from store.tensors.changes import kind_of
from store.tensors.numbers import rounded
from store.tensors.raw import RawTensor

Q, NORM, HEAD = "model.layers.3.self_attn.q_proj.weight", "model.norm.weight", "lm_head.weight"


def weights(q: list[float], norm: list[float], **more: RawTensor) -> dict[str, RawTensor]:
    """Return bfloat16 queries (2, 2) and a float32 norm."""
    patterns = rounded(np.array(q, np.float32), "BF16")
    return {
        Q: RawTensor(dtype="BF16", shape=(2, 2), data=patterns.tobytes()),
        NORM: RawTensor(dtype="F32", shape=(2,), data=np.array(norm, np.float32).tobytes()),
        **more,
    }


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


@pytest.fixture
def ends(store: CheckpointStore) -> tuple[str, str]:
    """Return two checkpoints that differ by (3, 0, -4, 0) and (0, 12); the first has a tied tensor twice."""
    tied = {HEAD: RawTensor(dtype="F32", shape=(1,), data=bytes(4))}
    start = store.write(weights([1, 1, 1, 1], [0, 0], **tied), None, {"seed": 1})
    return start.id, store.write(weights([4, 1, -3, 1], [0, 12]), None, {"seed": 2}).id


def vector(store: CheckpointStore, ends: tuple[str, str]) -> MergedTaskVector:
    return MergedTaskVector(
        store, [Part(start=ends[0], end=ends[1], weight=1.0)], method="arithmetic", density=None
    )


def test_a_vectors_figures_are_those_computed_by_hand(store: CheckpointStore, ends: tuple[str, str]) -> None:
    assert vector(store, ends).by_kind() == {
        kind_of(NORM): ChangeSize(norm=12.0, changed=1, elements=2),
        kind_of(Q): ChangeSize(norm=5.0, changed=2, elements=4),
    }


def test_a_vectors_file_is_loaded_by_safetensors_with_the_names_and_shapes_of_the_checkpoint(
    store: CheckpointStore, ends: tuple[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "vector.safetensors"
    assert vector(store, ends).write(path) == path.stat().st_size
    loaded = load_file(path)
    assert {name: (array.dtype, array.tolist()) for name, array in loaded.items()} == {
        Q: (np.float32, [[3, 0], [-4, 0]]),
        NORM: (np.float32, [0, 12]),
    }


def test_merged_vectors_have_the_computed_tensors(store: CheckpointStore, ends: tuple[str, str]) -> None:
    parts = [Part(start=ends[0], end=ends[1], weight=2.0), Part(start=ends[0], end=ends[1], weight=-3.0)]
    tensors = dict(MergedTaskVector(store, parts, method="arithmetic", density=None))
    assert tensors[Q].tolist() == [-3, 0, 4, 0] and tensors[NORM].tolist() == [0, -12]


def test_a_damaged_checkpoint_has_no_vector(store: CheckpointStore, ends: tuple[str, str]) -> None:
    for path in (path for path in store.directory.rglob("*") if path.is_file() and path.suffix != ".json"):
        whole = bytearray(path.read_bytes())
        whole[-1] ^= 1
        path.write_bytes(whole)
    with pytest.raises(IntegrityFault):
        vector(store, ends)


def test_an_existing_file_is_not_overwritten_and_a_failure_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "vector.safetensors"
    path.write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists already"):
        write_new(path, [b"yours"])
    os.symlink(tmp_path / "nowhere", tmp_path / "link")
    with pytest.raises(UsageError, match="exists already"):
        write_new(tmp_path / "link", [b"yours"])
    with pytest.raises(UsageError, match="there is no folder"):
        write_new(tmp_path / "none" / "v", [b"yours"])

    def breaking() -> object:
        yield b"half"
        raise KeyError("no more")

    with pytest.raises(KeyError):
        write_new(tmp_path / "new", breaking())  # type: ignore[arg-type]
    assert (
        sorted(file.name for file in tmp_path.iterdir()) == ["link", path.name]
        and path.read_bytes() == b"mine"
    )


def test_a_file_created_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    def parts() -> object:
        (tmp_path / "v").write_bytes(b"first")
        yield b"second"

    with pytest.raises(UsageError, match="exists already"):
        write_new(tmp_path / "v", parts())  # type: ignore[arg-type]
    assert (tmp_path / "v").read_bytes() == b"first" and len(list(tmp_path.iterdir())) == 1
