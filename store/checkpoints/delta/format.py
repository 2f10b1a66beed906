"""The file format of a delta: header, payloads of the chunks, table.

Each tensor is cut into chunks of 2 MiB. A chunk that equals the base's chunk has an empty payload. All
numbers are little-endian.

    8 bytes    b"NSDELTA" and the version of the format, 1
    8 bytes    length of the header, padding included
    header     canonical JSON, padded with spaces to 8 bytes: {"base": digest of the base's tensors, "" for
               none, "chunk": bytes in a chunk, "elements": {name: [type, shape]} of the tensors stored by
               changed elements, "new": digest of the new tensors, "whole": the other tensors}
    payloads   of the chunks, in the order of the tensors' names. In each: 1 byte, the number of byte planes
               of the positions; then every plane, first positions, then changes: 4 bytes length, a zstd frame
    table      48 bytes a chunk: xxh3-128 of the base's chunk, of the new one, 4 bytes length of the payload,
               4 bytes count of changed elements, 4 bytes coding (0 same, 1 gaps, 2 bits, 3 whole), 4 bytes 0

A delta is identified by the SHA-256 of these bytes; the digest of tensors is that of their safetensors file.
Without a base every tensor is stored in full, and the hashes of the base's chunks are zeros.

Invariant: `parse` reads what `head` and `table` wrote, and refuses a file whose parts do not add up to its
length. This module knows nothing about the coding of a chunk (`elements.py`), and reads no file.
"""

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import NamedTuple

import numpy as np

from store.checkpoints.delta.elements import Coding
from store.tensors.numbers import Array
from store.tensors.raw import ITEM_BYTES, Tensors, TensorSpecs

CHUNK = 2 << 20
"""Number of bytes of a tensor that are coded together."""
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)
"""Errors that `parse` raises for a file that this version cannot read."""
_MAGIC = b"NSDELTA\x01"
_ROW = struct.Struct("<16s16sIII4x")


class Piece(NamedTuple):
    """The place of one chunk: the name and type of its tensor, and its first and last byte offsets."""

    name: str
    dtype: str
    start: int
    end: int

    def of(self, tensors: Tensors) -> Array:
        """Return the chunk as an array of unsigned integers, as wide as the tensor's elements.

        The array is a view of the tensor's buffer, so it can be written to if the buffer can.
        """
        data = memoryview(tensors[self.name].data)
        return np.frombuffer(data[self.start : self.end], f"<u{ITEM_BYTES[self.dtype]}")

    def empty(self) -> Array:
        """Return an uninitialised array of the chunk's size."""
        width = ITEM_BYTES[self.dtype]
        return np.empty((self.end - self.start) // width, f"<u{width}")


class ChunkRow(NamedTuple):
    """The row of one chunk in the table."""

    before: bytes
    """Hash of the base's chunk."""
    after: bytes
    """Hash of the new chunk."""
    nbytes: int
    """Length of the payload in bytes."""
    changed: int
    """Number of changed elements."""
    coding: int


class CodedChunk(NamedTuple):
    """One chunk as it is in the file."""

    piece: Piece
    row: ChunkRow
    payload: memoryview


@dataclass(frozen=True, kw_only=True)
class ParsedDelta:
    """The content of a delta's file."""

    base_sha256: str
    new_sha256: str
    specs: TensorSpecs
    chunks: Sequence[CodedChunk]


def by_elements(dtype: str) -> bool:
    """Return whether a delta stores the changed elements of tensors of this type, and not all elements."""
    return ITEM_BYTES[dtype] == 2


def pieces_of(specs: TensorSpecs) -> list[Piece]:
    """Return the places of all chunks of such tensors, in the order of the file."""
    return [piece for name, spec in sorted(specs.items()) for piece in _cut(name, *spec)]


def head(specs: TensorSpecs, base_sha256: str, new_sha256: str) -> bytes:
    """Return the bytes of the file before the payloads.

    Args:
        specs: Type and shape of every tensor.
        base_sha256: Digest of the base; "" without a base.
        new_sha256: Digest of the new tensors.
    """
    groups: dict[str, dict[str, object]] = {"elements": {}, "whole": {}}
    for name, (dtype, shape) in specs.items():
        groups["elements" if base_sha256 and by_elements(dtype) else "whole"][name] = [dtype, shape]
    header = {"base": base_sha256, "chunk": CHUNK, "new": new_sha256, **groups}
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 8)
    return _MAGIC + struct.pack("<Q", len(text)) + text


def table(rows: Sequence[ChunkRow]) -> bytes:
    """Return the bytes of the file after the payloads, with one row for each chunk in the file's order."""
    return b"".join(_ROW.pack(*row) for row in rows)


def parse(whole: memoryview) -> ParsedDelta:
    """Return the content of a delta's file, whose payloads are views of `whole`.

    One of the errors in `UNREADABLE` is raised if this version cannot read the file.
    """
    if bytes(whole[:8]) != _MAGIC:
        raise ValueError("it is not a delta of version 1")
    length = int.from_bytes(whole[8:16], "little")
    header = json.loads(bytes(whole[16 : 16 + length]))
    if header["chunk"] != CHUNK:
        raise ValueError(f"its chunks are of {header['chunk']} bytes")
    named = {**header["elements"], **header["whole"]}
    specs = {name: (str(dtype), tuple(shape)) for name, (dtype, shape) in named.items()}
    pieces = pieces_of(specs)
    table_start = len(whole) - _ROW.size * len(pieces)
    if table_start < 16 + length:
        raise ValueError("it is cut short")
    rows = [ChunkRow(*fields) for fields in _ROW.iter_unpack(whole[table_start:])]
    if any((row.coding == Coding.SAME) != (row.before == row.after) for row in rows):
        raise ValueError("its table contradicts itself")
    ends = [16 + length]
    for row in rows:
        ends.append(ends[-1] + row.nbytes)
    if ends[-1] != table_start:
        raise ValueError("its parts do not add up to its length")
    payloads = [whole[start:end] for start, end in pairwise(ends)]
    return ParsedDelta(
        base_sha256=str(header["base"]),
        new_sha256=str(header["new"]),
        specs=specs,
        chunks=[CodedChunk(*parts) for parts in zip(pieces, rows, payloads, strict=True)],
    )


def _cut(name: str, dtype: str, shape: tuple[int, ...]) -> Iterator[Piece]:
    nbytes = prod(shape) * ITEM_BYTES[dtype]
    return (Piece(name, dtype, start, min(start + CHUNK, nbytes)) for start in range(0, nbytes, CHUNK))
