"""Checkpoint files: the same content has the same name, and all damage is found."""

import json
import os
import struct
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from corpus.errors import GateRefused, IntegrityFault, UnknownId
from store.checkpoints.store import CheckpointStore
from store.tensors.raw import RawTensor, pieces

BF16 = RawTensor(dtype="BF16", shape=(3,), data=bytes(range(6)))
F32 = RawTensor(dtype="F32", shape=(2, 2), data=struct.pack("<4f", 1, 2, 3, 4))
STEP = RawTensor(dtype="I64", shape=(), data=struct.pack("<q", 7))
WEIGHTS = {"b": BF16, "a": F32}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


def files(store: CheckpointStore) -> list[Path]:
    return sorted(path for path in store.directory.rglob("*") if path.is_file())


def test_a_checkpoint_is_read_back_as_it_was_written(store: CheckpointStore) -> None:
    first = store.write(WEIGHTS, None, {"cursor": 3, "seed": 1})
    second = store.write(WEIGHTS, {"step": STEP}, {"parent": first.id, "cursor": 4, "seed": 2})
    assert store.manifest(first.id).fields == {
        "weights": first.weights_sha256,
        "optimizer": None,
        "parent": None,
        "cursor": 3,
        "seed": 1,
    }
    assert store.load_weights(second.id) == WEIGHTS and store.load_optimizer(first.id) is None
    assert store.load_optimizer(second.id) == {"step": STEP}
    assert first.weights_sha256 == second.weights_sha256 and first.id != second.id
    assert store.verify([first.id, second.id]) == []


def test_every_file_is_named_by_the_digest_of_its_bytes(store: CheckpointStore) -> None:
    checkpoint = store.write(WEIGHTS, {"step": STEP}, {"cursor": 3})
    assert {path.name.partition(".")[0] for path in files(store)} == {
        checkpoint.id,
        checkpoint.weights_sha256,
        checkpoint.optimizer_sha256,
    }
    assert all(sha256(path.read_bytes()).hexdigest() == path.stem for path in files(store))


def test_the_same_content_has_the_same_id_and_is_kept_once(store: CheckpointStore, tmp_path: Path) -> None:
    first = store.write(WEIGHTS, {"step": STEP}, {"cursor": 3, "seed": 1})
    before = files(store)
    turned = dict(reversed(WEIGHTS.items()))
    assert store.write(turned, {"step": STEP}, {"seed": 1, "cursor": 3}) == first and files(store) == before
    elsewhere = CheckpointStore(tmp_path / "elsewhere")
    assert elsewhere.write(WEIGHTS, {"step": STEP}, {"cursor": 3, "seed": 1}) == first
    assert elsewhere.write(WEIGHTS, {"step": STEP}, {"cursor": 4, "seed": 1}) != first


def test_the_files_are_safetensors_that_any_reader_loads(store: CheckpointStore) -> None:
    from safetensors import deserialize

    checkpoint = store.write(WEIGHTS, None, {})
    blob = (store.blobs.folder / f"{checkpoint.weights_sha256}.safetensors").read_bytes()
    loaded = {name: (e["dtype"], tuple(e["shape"]), bytes(e["data"])) for name, e in deserialize(blob)}
    assert loaded == {name: (raw.dtype, raw.shape, bytes(raw.data)) for name, raw in WEIGHTS.items()}


def test_a_byte_flipped_anywhere_is_found_and_named(store: CheckpointStore) -> None:
    checkpoint = store.write(WEIGHTS, {"step": STEP}, {"cursor": 3})
    for path in files(store):
        whole = path.read_bytes()
        for place in range(len(whole)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            (fault,) = store.verify([checkpoint.id])
            assert fault.path == path and fault.checkpoint_id == checkpoint.id and str(path) in fault.problem
        path.write_bytes(whole[:-1])
        assert [fault.path for fault in store.verify([checkpoint.id])] == [path]
        path.write_bytes(b"")
        assert [fault.path for fault in store.verify([checkpoint.id])] == [path]
        path.unlink()
        assert "is missing" in store.verify([checkpoint.id])[0].problem
        path.write_bytes(whole)
    assert store.verify([checkpoint.id]) == []


def test_damaged_weights_are_never_returned(store: CheckpointStore) -> None:
    checkpoint = store.write(WEIGHTS, None, {})
    path = store.blobs.folder / f"{checkpoint.weights_sha256}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityFault, match="roll back to another checkpoint") as fault:
        store.load_weights(checkpoint.id)
    assert str(path) in str(fault.value) and fault.value.exit_code == 12


def test_writing_the_same_checkpoint_again_repairs_a_damaged_file(store: CheckpointStore) -> None:
    checkpoint = store.write(WEIGHTS, None, {})
    path = store.blobs.folder / f"{checkpoint.weights_sha256}.safetensors"
    path.write_bytes(b"gone")
    store.write(WEIGHTS, None, {})
    assert store.verify([checkpoint.id]) == []


def test_a_reader_that_changes_loaded_bytes_does_not_change_the_checkpoint(store: CheckpointStore) -> None:
    checkpoint = store.write(WEIGHTS, None, {})
    loaded = store.load_weights(checkpoint.id)["a"].data
    assert isinstance(loaded, memoryview)
    loaded[:4] = b"\0\0\0\0"
    assert store.verify([checkpoint.id]) == []


def test_a_sweep_removes_orphans_and_unfinished_files_and_nothing_else(store: CheckpointStore) -> None:
    first = store.write(WEIGHTS, {"step": STEP}, {"cursor": 1})
    second = store.write({"a": F32}, {"step": STEP}, {"cursor": 2, "parent": first.id})
    unfinished = [store.directory / "x.tmp", store.blobs.folder / "y.tmp"]
    for path in unfinished:
        path.write_bytes(b"half")
    removed = store.sweep([first.id])
    gone = [
        store.directory / f"{second.id}.json",
        store.blobs.folder / f"{second.weights_sha256}.packed",
    ]
    assert sorted(removed) == sorted([*unfinished, *gone])
    assert store.verify([first.id]) == [] and not any(path.exists() for path in removed)
    assert CheckpointStore(store.directory / "nowhere").sweep([]) == []


def test_nothing_is_swept_while_a_kept_manifest_is_damaged(store: CheckpointStore) -> None:
    checkpoint = store.write(WEIGHTS, None, {})
    (store.directory / f"{checkpoint.id}.json").write_text("{}")
    with pytest.raises(IntegrityFault):
        store.sweep([checkpoint.id])
    assert (store.blobs.folder / f"{checkpoint.weights_sha256}.safetensors").exists()


def test_a_name_that_is_not_an_id_reaches_no_path(store: CheckpointStore) -> None:
    for name in ("../../etc/passwd", "", "A" * 64, "0" * 63):
        with pytest.raises(UnknownId):
            store.manifest(name)


def test_a_manifest_cannot_set_the_fields_of_the_store(store: CheckpointStore) -> None:
    with pytest.raises(ValueError, match="weights"):
        store.write(WEIGHTS, None, {"weights": "0" * 64})
    with pytest.raises(ValueError):
        store.write(WEIGHTS, None, {"lr": float("nan")})


def test_free_space_is_checked_before_it_is_needed(store: CheckpointStore) -> None:
    store.require_space(1)
    with pytest.raises(GateRefused, match="free some space"):
        store.require_space(1 << 60)


def test_tensors_of_wider_types_come_first_so_that_all_are_aligned() -> None:
    whole = b"".join(bytes(p) for p in pieces({"a": BF16, "b": F32, "c": STEP}))
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    assert length % 8 == 0 and list(header) == ["c", "b", "a"]
    assert all(header[name]["data_offsets"][0] % width == 0 for name, width in (("a", 2), ("b", 4), ("c", 8)))


def test_bytes_that_do_not_fill_the_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fill"):
        RawTensor(dtype="F32", shape=(2,), data=b"1234")


def test_checkpoints_need_no_tensor_library() -> None:
    code = "import sys, store.checkpoints.store; sys.exit(any(m in sys.modules for m in ('torch', 'agents')))"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False).returncode == 0
