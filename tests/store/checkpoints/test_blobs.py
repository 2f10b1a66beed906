"""Blobs: tensors have one name in every stored form, every form returns them, and all damage is found."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from corpus.errors import IntegrityFault
from store.checkpoints.blobs import Blobs
from store.checkpoints.store import CheckpointStore
from store.tensors.raw import RawTensor, pieces

Tensors = Mapping[str, RawTensor]
SIZE = 60_000


def begun() -> None:
    """Do nothing before the first byte."""


def bf16(values: np.ndarray) -> RawTensor:
    return RawTensor(
        dtype="BF16", shape=values.shape, data=memoryview(bytearray(values.astype("<u2").tobytes()))
    )


def model(seed: int = 0) -> dict[str, RawTensor]:
    """Return a bfloat16 matrix and a float32 vector, as hybrid models have them."""
    draw = np.random.default_rng(seed)
    patterns = (0.02 * draw.standard_normal(SIZE, np.float32)).view(np.uint32) >> 16
    a_log = RawTensor(dtype="F32", shape=(4,), data=memoryview(bytearray(draw.bytes(16))))
    return {"w": bf16(patterns), "a_log": a_log}


def changed(tensors: Tensors, share: float, seed: int) -> dict[str, RawTensor]:
    """Return the tensors with this share of the matrix moved up by one unit."""
    patterns = np.frombuffer(tensors["w"].data, "<u2").copy()
    patterns[np.random.default_rng(seed).random(SIZE) < share] += 1
    return {**tensors, "w": bf16(patterns)}


def copied(tensors: Tensors) -> dict[str, RawTensor]:
    return {
        n: RawTensor(dtype=t.dtype, shape=t.shape, data=memoryview(bytearray(t.data)))
        for n, t in tensors.items()
    }


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


@pytest.fixture
def line(blobs: Blobs) -> list[tuple[str, Tensors]]:
    """Return digests and tensors of a base and its successors: two small changes, then a large one."""
    versions = [model()]
    versions += [changed(versions[-1], 0.01, seed) for seed in (1, 2)]
    versions.append(model(7))
    written: list[tuple[str, Tensors]] = []
    for tensors in versions:
        written.append((blobs.write(tensors, near=written[-1][0] if written else None)[0], tensors))
    return written


def test_small_changes_are_stored_as_deltas_of_one_base_and_large_ones_become_a_new_base(
    blobs: Blobs, line: list[tuple[str, Tensors]]
) -> None:
    stored = [blobs.stored(digest) for digest, _ in line]
    assert [entry.form for entry in stored] == ["whole", "delta", "delta", "whole"]
    assert [entry.base for entry in stored] == [None, line[0][0], line[0][0], None]
    assert max(stored[1].nbytes, stored[2].nbytes) < stored[0].nbytes / 20


def test_a_delta_larger_than_half_of_the_whole_becomes_a_new_base(blobs: Blobs) -> None:
    base = model()
    near = blobs.write(base)[0]
    forms = [blobs.stored(blobs.write(changed(base, share, 1), near=near)[0]).form for share in (0.2, 0.99)]
    patterns = np.frombuffer(base["w"].data, "<u2") ^ np.random.default_rng(0).integers(
        0, 1 << 9, SIZE, np.uint16
    )
    forms.append(blobs.stored(blobs.write({**base, "w": bf16(patterns)}, near=near)[0]).form)
    assert forms == ["delta", "delta", "whole"]


def test_every_form_has_the_name_of_its_safetensors_form_and_returns_the_tensors(
    blobs: Blobs, line: list[tuple[str, Tensors]]
) -> None:
    fp32 = {"w": RawTensor(dtype="F32", shape=(50, 20), data=np.random.default_rng(0).bytes(4000))}
    packed = blobs.write(fp32)[0]
    assert blobs.stored(packed).form == "packed" and blobs.write(fp32, near=line[0][0])[0] == packed
    for digest, tensors in [*line, (packed, fp32)]:
        assert digest == sha256(b"".join(pieces(tensors))).hexdigest()
        assert blobs.load(digest) == tensors and blobs.problem(digest) is None
    elsewhere = Blobs(blobs.folder / "elsewhere")
    assert elsewhere.write(line[1][1])[0] == line[1][0] and elsewhere.stored(line[1][0]).form == "whole"


def test_packed_zeros_take_almost_no_space(blobs: Blobs) -> None:
    digest, nbytes = blobs.write({"w": RawTensor(dtype="F32", shape=(1 << 20,), data=bytes(4 << 20))})
    assert blobs.stored(digest).form == "packed" and nbytes == blobs.stored(digest).nbytes < 4000


@pytest.mark.parametrize("start", [0, 1, 2, 3])
@pytest.mark.parametrize("goal", [0, 1, 2, 3])
@pytest.mark.parametrize("hint", ["truth", "nothing", "a lie"])
def test_tensors_are_put_in_place_whatever_the_memory_holds(
    blobs: Blobs, line: list[tuple[str, Tensors]], start: int, goal: int, hint: str
) -> None:
    live, dirty = copied(line[start][1]), []
    held = {"truth": line[start][0], "nothing": None, "a lie": line[(start + 1) % 4][0]}[hint]
    blobs.put(line[goal][0], live, lambda: dirty.append(True), held=held)
    assert live == line[goal][1] and dirty


def test_nothing_is_put_or_begun_when_the_file_or_its_base_is_damaged(
    blobs: Blobs, line: list[tuple[str, Tensors]]
) -> None:
    for damaged, goal in ((1, 1), (0, 1), (3, 3)):
        live, begun = copied(line[2][1]), []
        path = blobs.path(line[damaged][0])
        whole = path.read_bytes()
        path.write_bytes(
            whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]
        )
        with pytest.raises(IntegrityFault):
            blobs.put(line[goal][0], live, lambda begun=begun: begun.append(True))  # type: ignore[misc]
        assert live == line[2][1] and not begun
        path.write_bytes(whole)


def test_a_damaged_checkpoint_in_place_does_not_prevent_putting_another(
    blobs: Blobs, line: list[tuple[str, Tensors]]
) -> None:
    live = copied(line[2][1])
    blobs.path(line[2][0]).write_bytes(b"gone")
    blobs.put(line[1][0], live, begun, held=line[2][0])
    assert live == line[1][1]


def test_a_blob_under_the_name_of_another_is_refused(blobs: Blobs, line: list[tuple[str, Tensors]]) -> None:
    blobs.path(line[1][0]).write_bytes(blobs.path(line[2][0]).read_bytes())
    with pytest.raises(IntegrityFault, match="another blob's"):
        blobs.load(line[1][0])


def test_no_new_delta_depends_on_a_damaged_base(blobs: Blobs) -> None:
    base = model()
    near = blobs.write(base)[0]
    path = blobs.path(near)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    fresh = Blobs(blobs.folder)
    digest, _ = fresh.write(changed(base, 0.01, 1), near=near)
    assert fresh.stored(digest).form == "whole" and fresh.problem(digest) is None
    path.write_bytes(b"")
    assert fresh.stored(fresh.write(changed(base, 0.01, 2), near=near)[0]).form == "whole"


def test_a_damaged_base_is_repaired_as_a_base_even_where_a_delta_would_suffice(
    blobs: Blobs, line: list[tuple[str, Tensors]]
) -> None:
    path = blobs.path(line[0][0])
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    other = blobs.write(changed(line[0][1], 0.01, 9), whole=True)[0]
    assert blobs.write(line[0][1], near=other)[0] == line[0][0]
    assert [blobs.problem(digest) for digest, _ in line] == [None] * 4 and blobs.stored(
        line[0][0]
    ).form == "whole"


def test_one_byte_flipped_at_a_thousand_places_is_found_a_thousand_times(tmp_path: Path) -> None:
    """Flip bytes of manifests, a base, deltas, packed weights and optimizer states of two homes."""
    store = CheckpointStore(tmp_path / "checkpoints")
    state = {"step": RawTensor(dtype="I64", shape=(), data=bytes(range(8)))}
    base = {"w": bf16(np.arange(3000) % 700), "a": RawTensor(dtype="F32", shape=(3,), data=bytes(range(12)))}
    first = store.write(base, state, {"cursor": 1})
    patterns = np.frombuffer(base["w"].data, "<u2").copy()
    patterns[::40] ^= 3
    second = store.write({**base, "w": bf16(patterns)}, None, {"parent": first.id, "cursor": 2})
    fp32 = RawTensor(dtype="F32", shape=(300,), data=np.random.default_rng(0).bytes(1200))
    third = store.write({"w": fp32}, None, {"parent": second.id, "cursor": 3})
    ids = [first.id, second.id, third.id]
    assert [store.stored(one).form for one in ids] == ["whole", "delta", "packed"] and store.verify(ids) == []
    files = sorted(path for path in store.directory.rglob("*") if path.is_file())
    draw, found = np.random.default_rng(0), 0
    ends = np.cumsum([path.stat().st_size for path in files])
    for place in draw.integers(0, ends[-1], 1000):
        index = int(np.searchsorted(ends, place, side="right"))
        whole = files[index].read_bytes()
        at = int(place - ends[index]) + len(whole)
        files[index].write_bytes(
            whole[:at] + bytes([whole[at] ^ 1 << int(draw.integers(8))]) + whole[at + 1 :]
        )
        found += files[index] in {fault.path for fault in store.verify(ids)}
        files[index].write_bytes(whole)
    assert found == 1000 and len(files) == 7


def test_a_base_is_kept_as_long_as_a_delta_uses_it(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    versions = [model(), changed(model(), 0.01, 1), changed(model(), 0.01, 2)]
    ids: list[str] = []
    for number, tensors in enumerate(versions):
        ids.append(store.write(tensors, None, {"parent": ids[-1] if ids else None, "cursor": number}).id)
    base = store.blobs.path(store.manifest(ids[0]).weights)
    assert base not in store.sweep(ids[1:]) and store.load_weights(ids[2]) == versions[2]
    assert base not in store.sweep(ids[2:]) and store.load_weights(ids[2]) == versions[2]
    assert base in store.sweep([]) and list(store.blobs.files()) == []


def test_a_damaged_delta_that_hides_its_base_keeps_every_base(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    first = store.write(model(), None, {}).id
    second = store.write(changed(model(), 0.01, 1), None, {"parent": first}).id
    delta, base = (store.blobs.path(store.manifest(one).weights) for one in (second, first))
    whole = delta.read_bytes()
    delta.write_bytes(b"gone")
    store.sweep([second])
    delta.write_bytes(whole)  # somebody brings it back from a backup
    assert base.exists() and store.verify([second]) == []


def test_a_dropped_optimizer_state_is_none_and_a_lost_one_is_a_fault(
    tmp_path: Path,
) -> None:
    store = CheckpointStore(tmp_path)
    states = [{"step": RawTensor(dtype="I64", shape=(), data=bytes([n] * 8))} for n in range(3)]
    ids = [store.write(model(), state, {"cursor": n}).id for n, state in enumerate(states)]
    store.drop_states(ids, but=ids[1:])
    assert [store.load_optimizer(checkpoint_id) for checkpoint_id in ids] == [None, *states[1:]]
    assert [store.has_state(checkpoint_id) for checkpoint_id in ids] == [False, True, True]
    assert store.verify(ids) == []
    assert store.sweep(ids) == []
    store.blobs.path(store.manifest(ids[1]).optimizer).unlink()
    assert len(store.verify(ids)) == 1
    with pytest.raises(IntegrityFault, match="is missing"):
        store.load_optimizer(ids[1])
    store.write(model(), states[0], {"cursor": 0})  # the same night again brings it back
    assert store.load_optimizer(ids[0]) == states[0]


def test_weights_that_change_during_the_write_are_not_kept(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = model()
    real = blobs._find

    def meanwhile(digest: str) -> object:
        memoryview(tensors["w"].data)[0] ^= 1
        return real(digest)

    monkeypatch.setattr(blobs, "_find", meanwhile)
    with pytest.raises(IntegrityFault, match="changed while they were written"):
        blobs.write(tensors)
    assert list(blobs.files()) == []
