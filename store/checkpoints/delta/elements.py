"""The coding of one chunk of a tensor: which elements changed and by how much, or all elements.

The positions of changed elements are coded as the gaps between them or, where a large share changed, as one
bit for each element. The changes are coded as the zigzag differences of the bit patterns, which are small
whatever the numbers are. All coded numbers are split into byte planes: the plane i has byte i of each number.
Each plane is a zstd frame of its own, so that similar bytes share one Huffman table.

Tried and rejected: differences of the bit patterns in the order of the numbers that they stand for (no
smaller), XOR (a quarter larger than the differences), and gaps among the elements of each exponent (a file a
sixth smaller, because small weights change more often, but another pass over all elements for every
exponent).

Invariant: `apply` after `pack` gives the same bits, forwards and backwards, for every bit pattern, NaN
included; the same chunks give the same payload. This module knows nothing about files or tensors: a chunk is
a flat array of unsigned integers.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import zstandard

from store.tensors.numbers import Array

LEVEL, LEAST_MATCH, HASH_LOG = 1, 7, 6
"""Settings of zstd. The planes have no useful matches, and short matches by chance cost more than the
Huffman code. So zstd searches for long matches alone, in a small table. Zeros still shrink to nothing."""
BITS_FROM = 1 / 6
"""Share of changed elements from which one bit for each element takes less space than gaps."""
WORDS_UP_TO = 1 / 3
"""Share of changed 8-byte words up to which it is faster to search these words alone for changed elements."""
_LENGTH = 4
"""Number of bytes that hold the length of a frame."""


class Coding(IntEnum):
    """The coding of a chunk; the numbers are those in the file."""

    SAME = 0
    GAPS = 1
    BITS = 2
    WHOLE = 3


@dataclass(frozen=True, kw_only=True)
class Packed:
    """One coded chunk."""

    coding: Coding
    changed: int
    """Number of elements that differ; for a chunk that is coded in full, the number of all elements."""
    payload: bytes | memoryview


def pack(before: Array, after: Array) -> Packed:
    """Return the coded changes from one chunk to another.

    Args:
        before: The chunk of the base: 16-bit elements.
        after: The new chunk, of equally many 16-bit elements; it must differ from `before`.
    """
    positions = _changed(before, after)
    # The difference wraps around, so that every two patterns have one.
    difference = (after.take(positions) - before.take(positions)).view(np.int16)
    zigzag = ((difference << 1) ^ (difference >> 15)).view(np.uint16)
    if len(positions) >= BITS_FROM * len(before):
        coding, places = Coding.BITS, [np.packbits(before != after)]
    else:
        coding, places = Coding.GAPS, _planes(np.diff(positions, prepend=-1) - 1)
    frames = _frames([*places, *_planes(zigzag)])
    return Packed(coding=coding, changed=len(positions), payload=bytes([len(places)]) + frames)


def pack_whole(after: Array) -> Packed:
    """Return a chunk coded in full; its elements may have any width."""
    planes = [_plane(after, index) for index in range(after.itemsize)]
    return Packed(coding=Coding.WHOLE, changed=len(after), payload=bytes([0]) + _frames(planes))


def apply(packed: Packed, chunk: Array, *, backwards: bool) -> None:
    """Make the coded changes in a chunk, or take them back, in place.

    Args:
        packed: The coded changes; elements that are coded in full overwrite the chunk.
        chunk: The chunk before the changes or, to take them back, after them.
        backwards: Whether to take the changes back.

    Raises:
        ValueError: The changes do not fit the chunk.
    """
    places, planes = packed.payload[0], _unframed(packed.payload[1:])
    if packed.coding == Coding.WHOLE:
        chunk[:] = _joined(planes, len(chunk), chunk.dtype)
        return
    if packed.coding == Coding.BITS:
        bits = np.frombuffer(planes[0], np.uint8)
        positions = np.flatnonzero(np.unpackbits(bits, count=len(chunk)).view(np.bool_))
    else:
        positions = np.cumsum(_joined(planes[:places], packed.changed, np.dtype(np.int64)) + 1) - 1
    zigzag = _joined(planes[places:], packed.changed, np.dtype(np.uint16))
    if len(positions) != packed.changed or positions[-1] >= len(chunk):
        raise ValueError("positions lie outside the chunk")
    difference = (zigzag >> 1) ^ -(zigzag & 1)
    now = chunk.take(positions)
    chunk[positions] = now - difference if backwards else now + difference


def _changed(before: Array, after: Array) -> Array:
    """Return the positions of the elements that differ, in ascending order."""
    if before.nbytes % 8 == 0:
        old, new = before.view(np.uint64), after.view(np.uint64)
        words = np.flatnonzero(old != new)
        if len(words) <= WORDS_UP_TO * len(old):
            inside = np.flatnonzero((old.take(words) ^ new.take(words)).view(np.uint16) != 0)
            positions: Array = (words.take(inside >> 2) << 2) + (inside & 3)  # four elements in a word
            return positions
    return np.flatnonzero(before != after)


def _planes(values: Array) -> list[Array]:
    """Return the byte planes of these numbers, the lowest byte first.

    High planes that are all zeros are left out; at least one plane is returned.
    """
    most = int(values.max(initial=0))
    return [_plane(values, index) for index in range(max(1, (most.bit_length() + 7) // 8))]


def _plane(values: Array, index: int) -> Array:
    return (values >> (8 * index)).astype(np.uint8) if values.itemsize > 1 else values


def _joined(planes: list[bytes], count: int, dtype: np.dtype[Any]) -> Array:
    """Return the `count` numbers of type `dtype` that these byte planes hold."""
    values = np.zeros(count, dtype)
    for index, plane in enumerate(planes):
        if len(plane) != count:
            raise ValueError("a plane has another length than it should")
        values |= np.frombuffer(plane, np.uint8).astype(dtype) << dtype.type(8 * index)
    return values


def _frames(planes: Iterable[Array]) -> bytes:
    """Return the compressed planes, one after the other, each with its compressed length before it."""
    settings = zstandard.ZstdCompressionParameters.from_level(LEVEL, min_match=LEAST_MATCH, hash_log=HASH_LOG)
    compressor = zstandard.ZstdCompressor(compression_params=settings)
    frames = [compressor.compress(np.ascontiguousarray(plane).data) for plane in planes]
    return b"".join(len(frame).to_bytes(_LENGTH, "little") + frame for frame in frames)


def _unframed(payload: bytes | memoryview) -> list[bytes]:
    """Return the planes that `_frames` compressed."""
    decompressor, planes, start = zstandard.ZstdDecompressor(), [], 0
    while start < len(payload):
        end = start + _LENGTH + int.from_bytes(payload[start : start + _LENGTH], "little")
        try:
            planes.append(decompressor.decompress(payload[start + _LENGTH : end]))
        except zstandard.ZstdError as fault:
            raise ValueError(f"a plane cannot be unpacked ({fault})") from None
        start = end
    return planes
