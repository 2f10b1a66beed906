"""Deltas: exact both ways and deterministic; damage and other weights are refused."""

import errno
import io
import json
import mmap
import tempfile
import threading
import tracemalloc
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from corpus.errors import IntegrityFault
from store.checkpoints.delta.elements import Coding
from store.checkpoints.delta.encode import Delta, Written, chunk_hashes, encode
from store.checkpoints.delta.format import CHUNK
from store.tensors.raw import ITEM_BYTES, RawTensor, parse, pieces

BASE, NEW = (sha256(name).hexdigest() for name in (b"base", b"new"))
TYPES = sorted(ITEM_BYTES)
SIXTEEN = [dtype for dtype in TYPES if ITEM_BYTES[dtype] == 2]
Tensors = Mapping[str, RawTensor]


def raw(data: bytes, dtype: str = "BF16", shape: tuple[int, ...] | None = None) -> RawTensor:
    """Return a tensor in memory that can be written."""
    shape = (len(data) // ITEM_BYTES[dtype],) if shape is None else shape
    return RawTensor(dtype=dtype, shape=shape, data=memoryview(bytearray(data)))


def bits(*values: int) -> bytes:
    return np.array(values, "<u2").tobytes()


def copied(tensors: Tensors) -> dict[str, RawTensor]:
    return {name: raw(bytes(t.data), t.dtype, t.shape) for name, t in tensors.items()}


def encoded(base: Tensors, new: Tensors, **options: object) -> tuple[Written, bytes]:
    stream = io.BytesIO()
    written = encode(base, new, stream, base_sha256=BASE, new_sha256=NEW, **options)  # type: ignore[arg-type]
    return written, stream.getvalue()


def codings(delta: Delta) -> list[Coding]:
    return [Coding(row.coding) for _, row, _ in delta._chunks]


def round_trip(base: Tensors, new: Tensors) -> Delta:
    """Redo, undo and decode, comparing each bit for bit; return the delta."""
    written, whole = encoded(base, new)
    assert written.sha256 == sha256(whole).hexdigest() and written.nbytes == len(whole)
    delta, live = Delta(whole, written.sha256), copied(base)
    delta.redo(live)
    assert live == new and delta.changed == written.changed
    delta.undo(live, base)
    assert live == base and delta.decode(base) == new
    return delta


def random_pair(seed: int) -> tuple[Tensors, Tensors]:
    """Return tensors of odd sizes around the borders of chunks, and a changed version of them."""
    draw = np.random.default_rng(seed)
    base, new = {}, {}
    for index in range(int(draw.integers(1, 6))):
        dtype = TYPES[draw.integers(len(TYPES))] if draw.random() < 0.5 else "BF16"
        width = ITEM_BYTES[dtype]
        count = int(draw.choice([0, 1, 3, 1000, CHUNK // width, CHUNK // width + draw.integers(-2, 3)]))
        before = draw.integers(0, 256, count * width, np.uint8)
        after = before.copy()
        hit = draw.random(len(before)) < draw.choice([0, 1e-5, 1e-3, 0.02, 0.3, 1])
        after[hit] = draw.integers(0, 256, int(hit.sum()), np.uint8)
        base[f"{draw.integers(1000)}.{index}"] = raw(before.tobytes(), dtype)
        new[list(base)[-1]] = raw(after.tobytes(), dtype)
    return base, new


@pytest.mark.parametrize("seed", range(25))
def test_any_change_of_any_tensors_is_redone_and_undone_bit_for_bit(seed: int) -> None:
    round_trip(*random_pair(seed))


@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_makes_the_round_trip_and_the_header_has_its_coding(dtype: str) -> None:
    width = ITEM_BYTES[dtype]
    base = {"w": raw(bytes(range(24 * width)), dtype, (4, 6))}
    new = {"w": raw(bytes([*range(23 * width), *[7] * width]), dtype, (4, 6))}
    _, whole = encoded(base, new)
    header = json.loads(whole[16 : 16 + int.from_bytes(whole[8:16], "little")])
    tensor = {"w": [dtype, [4, 6]]}
    elements, whole_ones = (tensor, {}) if width == 2 else ({}, tensor)
    assert header == {"base": BASE, "chunk": CHUNK, "elements": elements, "new": NEW, "whole": whole_ones}
    assert codings(round_trip(base, new)) == [Coding.GAPS if width == 2 else Coding.WHOLE]


@pytest.mark.parametrize("dtype", SIXTEEN)
def test_every_kind_of_bit_pattern_can_change_into_every_other(dtype: str) -> None:
    """Signs of zero, NaN with their payloads, infinities and denormals are only bits."""
    patterns = np.arange(65536, dtype="<u2")
    for other in (0x0000, 0x8000, 0x7F80, 0xFF80, 0x7FC0, 0xFFFF, 0x0001, 0x7C00, 0x7E00):
        base = {"w": raw(patterns.tobytes(), dtype)}
        round_trip(base, {"w": raw(np.full(65536, other, "<u2").tobytes(), dtype)})
        round_trip(base, {"w": raw((patterns ^ other).tobytes(), dtype)})


def test_a_zero_that_turned_negative_is_a_change() -> None:
    delta = round_trip({"w": raw(bits(0, 0, 1))}, {"w": raw(bits(0, 0x8000, 1))})
    assert delta.changed == 1


def test_tensors_without_elements_and_with_one_make_the_round_trip() -> None:
    base = {"none": raw(b"", shape=(0, 4)), "one": raw(bits(5), shape=()), "step": raw(bytes(8), "I64", ())}
    new = {**base, "one": raw(bits(6), shape=()), "step": raw(b"\1" + bytes(7), "I64", ())}
    round_trip(base, new)
    round_trip({}, {})
    round_trip({"none": base["none"]}, {"none": base["none"]})


@pytest.mark.parametrize("dtype", TYPES)
def test_an_unchanged_tensor_takes_one_row_of_the_table(dtype: str) -> None:
    same = {"w": raw(np.random.default_rng(0).bytes(CHUNK + 64), dtype)}
    written, whole = encoded(same, copied(same))
    assert written.changed == 0 and len(whole) < 400
    assert codings(round_trip(same, copied(same))) == [Coding.SAME, Coding.SAME]


@pytest.mark.parametrize(
    ("share", "coding"), [(0.001, Coding.GAPS), (0.1, Coding.GAPS), (0.3, Coding.BITS), (1.0, Coding.BITS)]
)
def test_few_changes_are_coded_as_gaps_and_many_as_bits_and_both_are_small(
    share: float, coding: Coding
) -> None:
    draw = np.random.default_rng(0)
    before = draw.integers(0, 65536, CHUNK // 2, np.uint16)
    after = before + np.where(
        draw.random(len(before)) < share, draw.choice([1, 65535], len(before)), 0
    ).astype("u2")
    base, new = {"w": raw(before.tobytes())}, {"w": raw(after.tobytes())}
    assert codings(round_trip(base, new)) == [coding]
    # What the positions and the signs of the changes hold at least; zstd needs half a bit more for a sign.
    least = share / 2 + sum(-part * np.log2(part) for part in (share, 1 - share) if part > 0) + share
    assert encoded(base, new)[0].nbytes <= 1.1 * least * len(before) / 8 + 400


def test_changes_at_the_borders_of_chunks_are_found() -> None:
    count = CHUNK // 2 * 2 + 3
    for place in (0, CHUNK // 2 - 1, CHUNK // 2, CHUNK - 1, CHUNK, count - 1):
        base = {"w": raw(bytes(2 * count))}
        new = copied(base)
        memoryview(new["w"].data)[2 * place] = 1
        assert round_trip(base, new).changed == 1


def test_the_bytes_do_not_depend_on_threads_order_or_known_hashes() -> None:
    for seed in range(5):
        base, new = random_pair(seed)
        turned = dict(reversed(new.items()))
        once = encoded(base, new, threads=1)
        assert once == encoded(base, turned, threads=2) == encoded(base, new, threads=7)
        assert once == encoded(base, new, base_hashes=chunk_hashes(base, threads=3))
        assert once[0].hashes == chunk_hashes(new)


def test_a_base_with_known_hashes_is_read_and_checked_only_where_something_changed() -> None:
    base = {"a": raw(bytes(CHUNK)), "b": raw(bytes(CHUNK))}
    new = {"a": raw(bits(1) + bytes(CHUNK - 2)), "b": raw(bytes(CHUNK))}
    known = chunk_hashes(base)
    memoryview(base["b"].data)[0] = 1
    written, whole = encoded(base, new, base_hashes=known)
    assert written.changed == 1 and codings(Delta(whole, written.sha256)) == [Coding.GAPS, Coding.SAME]
    memoryview(base["a"].data)[9] = 1
    with pytest.raises(IntegrityFault, match="the base is damaged in a"):
        encoded(base, new, base_hashes=known)


def test_decoded_weights_that_differ_from_the_encoded_ones_are_reported() -> None:
    """Even a file with the right digest is checked."""
    base, new = {"w": raw(bits(*range(50)))}, {"w": raw(bits(*range(49), 7))}
    _, whole = encoded(base, new)
    payload = 16 + int.from_bytes(whole[8:16], "little")
    for place in (len(whole) - 20, len(whole) - 12, payload, payload + 1, payload + 5, len(whole) - 49):
        forged = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        with pytest.raises(IntegrityFault, match="half written; roll back"):
            Delta(forged, sha256(forged).hexdigest()).redo(copied(base))


def test_undoing_tensors_that_are_stored_in_full_needs_the_base_and_the_error_says_so() -> None:
    base, new = {"w": raw(bytes(8), "F32")}, {"w": raw(b"\1" + bytes(7), "F32")}
    written, whole = encoded(base, new)
    live = copied(new)
    with pytest.raises(ValueError, match="the base's tensors are needed"):
        Delta(whole, written.sha256).undo(live)
    with pytest.raises(IntegrityFault, match="they differ in w"):
        Delta(whole, written.sha256).undo(live, {"w": raw(b"\2" + bytes(7), "F32")})
    assert live == new


def test_a_byte_flipped_at_any_of_a_thousand_places_is_found_a_thousand_times() -> None:
    draw = np.random.default_rng(0)
    before = {"a": raw(draw.bytes(40000)), "b": raw(draw.bytes(4000), "F32")}
    after = copied(before)
    for tensor in after.values():
        np.frombuffer(tensor.data, np.uint8)[:: 4 if tensor.dtype == "BF16" else 80] ^= 1
    written, whole = encoded(before, after)
    header = 16 + int.from_bytes(whole[8:16], "little")
    places = [*range(header), *draw.integers(header, len(whole), 1000 - header)]
    assert 100 < header < 900 and len(places) == 1000
    live, refusals = copied(before), 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(draw.integers(8))
        with pytest.raises(IntegrityFault, match="roll back to another checkpoint, or restore"):
            Delta(bytes(damaged), written.sha256).redo(live)
        refusals += 1
    assert refusals == 1000 and live == before


def test_a_file_cut_short_or_grown_is_refused() -> None:
    base, new = random_pair(3)
    written, whole = encoded(base, new)
    for end in (0, 7, 16, 100, len(whole) // 2, len(whole) - 1):
        with pytest.raises(IntegrityFault, match="does not match its digest"):
            Delta(whole[:end], written.sha256)
    with pytest.raises(IntegrityFault, match="does not match its digest"):
        Delta(whole + b"\0", written.sha256)


def test_a_file_with_the_right_digest_that_is_not_a_delta_is_refused() -> None:
    _, whole = encoded({"w": raw(bits(1, 2))}, {"w": raw(bits(1, 3))})
    newer = b"NSDELTA\2" + whole[8:]
    same = whole[:-8] + bytes(8)  # of two chunks with other hashes
    for other in (b"", b"hello", newer, same, whole[:-8], whole[:16], whole.replace(b"BF16", b"BF17")):
        with pytest.raises(IntegrityFault, match="cannot be read"):
            Delta(other, sha256(other).hexdigest())


def test_a_delta_is_refused_on_weights_that_are_not_its_base() -> None:
    draw = np.random.default_rng(0)
    base = {name: raw(draw.bytes(CHUNK + 50)) for name in "abc"}
    new = {name: raw(bytes([data.data[0] ^ 1]) + bytes(data.data[1:])) for name, data in base.items()}
    written, whole = encoded(base, new)
    delta = Delta(whole, written.sha256)
    assert delta.base_sha256 == BASE
    other = copied(base)
    memoryview(other["c"].data)[-1] ^= 1  # in a chunk that the delta leaves alone
    before = copied(other)
    for attempt in (delta.redo, delta.undo, delta.decode):
        with pytest.raises(IntegrityFault, match="Nothing was written; restore the weights from base"):
            attempt(other)
    with pytest.raises(IntegrityFault, match="they differ in a"):
        delta.undo(copied(base))
    with pytest.raises(IntegrityFault, match="other names, types or shapes"):
        delta.redo({"a": other["a"]})
    assert other == before


@pytest.mark.parametrize("seed", range(8))
def test_without_a_base_everything_is_stored_in_full_and_read_by_itself(seed: int) -> None:
    new, stream = random_pair(seed)[1], io.BytesIO()
    written = encode(None, new, stream, base_sha256="", new_sha256=NEW)
    delta = Delta(stream.getvalue(), written.sha256)
    assert delta.decode(None) == new and set(codings(delta)) <= {Coding.WHOLE} and delta.new_sha256 == NEW
    target = {name: raw(bytes(len(tensor.data)), tensor.dtype, tensor.shape) for name, tensor in new.items()}
    begun: list[Tensors] = []
    delta.write(None, target, lambda: begun.append(copied(target)))
    assert target == new and begun == [
        {name: raw(bytes(len(t.data)), t.dtype, t.shape) for name, t in new.items()}
    ]


def test_a_delta_with_a_base_is_not_read_without_it() -> None:
    written, whole = encoded({"w": raw(bits(1, 2))}, {"w": raw(bits(1, 3))})
    with pytest.raises(ValueError, match="base, which is needed"):
        Delta(whole, written.sha256).decode(None)


def test_deltas_share_a_base_if_every_chunk_of_it_is_the_same() -> None:
    base, other = {"w": raw(bits(1, 2))}, {"w": raw(bits(9, 9))}
    first, second, third = (
        Delta(whole, written.sha256)
        for written, whole in (
            encoded(base, {"w": raw(bits(1, 3))}),
            encoded(base, base),
            encoded(other, base),
        )
    )
    assert (
        first.shares_base_with(second)
        and second.shares_base_with(first)
        and not third.shares_base_with(first)
    )


def test_there_is_no_delta_between_tensors_of_other_names_or_shapes() -> None:
    base = {"w": raw(bits(1, 2))}
    for new in ({}, {"v": base["w"]}, {"w": raw(bits(1, 2), "F16")}, {"w": raw(bits(1, 2), shape=(2, 1))}):
        with pytest.raises(ValueError, match="write a new base"):
            encoded(base, new)


@pytest.mark.parametrize("seed", range(6))
def test_chunk_by_chunk_the_result_is_the_same_and_a_wrong_base_is_still_found(seed: int) -> None:
    base, new = random_pair(seed)
    written, whole = encoded(base, new)
    delta, live = Delta(whole, written.sha256), copied(base)
    delta.redo(live, piecewise=True)
    assert live == new
    delta.undo(live, base, piecewise=True)
    assert live == base
    name = max(base, key=lambda name: len(base[name].data))
    if base[name].data:
        memoryview(live[name].data)[-1] ^= 1
        with pytest.raises(IntegrityFault, match="half written"):
            delta.redo(live, piecewise=True)
    with pytest.raises(IntegrityFault, match="other names, types or shapes"):
        delta.redo({}, piecewise=True)


def test_read_only_tensors_are_not_changed_in_place() -> None:
    base, new = {"w": RawTensor(dtype="BF16", shape=(2,), data=bits(1, 2))}, {"w": raw(bits(1, 3))}
    written, whole = encoded(base, new)
    with pytest.raises(ValueError, match="read-only"):
        Delta(whole, written.sha256).redo(base)


def test_mapped_files_are_read_and_written_in_place(tmp_path: Path) -> None:
    base, new = random_pair(11)
    paths = tmp_path / "base.safetensors", tmp_path / "new.safetensors"
    for path, tensors in zip(paths, (base, new), strict=True):
        path.write_bytes(b"".join(pieces(tensors)))
    mapped, live = parse(paths[0])[1], parse(paths[1])[1]
    written, whole = encoded(mapped, live)
    assert (written, whole) == encoded(base, new)
    Delta(whole, written.sha256).undo(live, mapped)
    assert live == base


def test_a_full_disk_ends_the_write_and_leaves_no_thread_behind() -> None:
    class Full(io.BytesIO):
        def write(self, data: object, /) -> int:
            if self.tell() > 1000:
                raise OSError(errno.ENOSPC, "full")
            return super().write(data)  # type: ignore[arg-type]

    base = {name: raw(bytes(2 * CHUNK)) for name in "abcdef"}
    new = {name: raw(np.random.default_rng(0).bytes(2 * CHUNK)) for name in base}
    threads = threading.active_count()
    with pytest.raises(OSError, match="full"):
        encode(base, new, Full(), base_sha256=BASE, new_sha256=NEW)
    assert threading.active_count() == threads


@pytest.mark.parametrize(("dtype", "share", "chunks"), [("BF16", 0.02, 8), ("BF16", 0.3, 20), ("F32", 1, 20)])
def test_memory_is_a_few_chunks_and_not_all_tensors(dtype: str, share: float, chunks: int) -> None:
    """Trace NumPy's arrays while tensors of 40 chunks each are encoded and undone."""
    draw = np.random.default_rng(0)
    before = draw.integers(0, 65536, 40 * CHUNK // 2, np.uint16)
    after = before + (draw.random(len(before), np.float32) < share).astype("u2")
    base, new = {"w": raw(before.tobytes(), dtype)}, {"w": raw(after.tobytes(), dtype)}
    del before, after
    with tempfile.TemporaryFile() as file:
        tracemalloc.start()
        written = encode(base, new, file, base_sha256=BASE, new_sha256=NEW)
        encoding = tracemalloc.get_traced_memory()[1]
        file.flush()
        tracemalloc.reset_peak()
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        Delta(whole, written.sha256).undo(new, base)
        undone = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert new == base and encoding < chunks * CHUNK and undone < chunks * CHUNK
