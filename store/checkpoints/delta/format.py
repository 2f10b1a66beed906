"""The file of a delta: header, payloads of the chunks, table.

A tensor goes in chunks of 2 MiB; a chunk that is the base's takes no payload. All numbers are little-endian.

    8 bytes    b"NSDELTA" and the version of the format, 1
    8 bytes    length of the header, padding included
    header     canonical JSON, padded with spaces to 8 bytes: {"base": digest of the base's tensors, "" for none,
               "chunk": bytes in a chunk, "elements": {name: [type, shape]} of the tensors told by changed elements,
               "new": digest of the new tensors, "whole": the rest}
    payloads   of the chunks, in the order of the tensors' names. In each: 1 byte, the number of byte planes of the
               positions; then every plane, first positions, then changes: 4 bytes length, a zstd frame
    table      48 bytes a chunk: xxh3-128 of the base's chunk, of the new one, 4 bytes length of the payload,
               4 bytes count of changed elements, 4 bytes coding (0 same, 1 gaps, 2 bits, 3 whole), 4 bytes zero

A delta is read by its SHA-256; the digests of tensors are those of their safetensors form. Without a base every
tensor is told whole, and the base's hashes are zeros.

Invariant: what `head` and `table` wrote, `parse` reads, and it takes nothing whose parts do not add up. Knows no
coding of a chunk (`elements.py`) and reads no file.
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import NamedTuple

import numpy as np

from store.checkpoints.delta.elements import Array, Coding
from store.tensors.raw import ITEM_BYTES, Kinds, RawTensor

CHUNK = 2 << 20
"""Bytes of a tensor that are coded together."""
Tensors = Mapping[str, RawTensor]
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)
_MAGIC = b"NSDELTA\x01"
_ROW = struct.Struct("<16s16sIII4x")


class Piece(NamedTuple):
    """One chunk's place in its tensor."""

    name: str
    dtype: str
    start: int
    end: int

    def of(self, tensors: Tensors) -> Array:
        """These bytes of the tensor, as unsigned integers of its elements' width; writable if the tensor is."""
        data = memoryview(tensors[self.name].data)
        return np.frombuffer(data[self.start : self.end], f"<u{ITEM_BYTES[self.dtype]}")

    def empty(self) -> Array:
        """As many elements, of whatever value."""
        width = ITEM_BYTES[self.dtype]
        return np.empty((self.end - self.start) // width, f"<u{width}")


class Row(NamedTuple):
    """One chunk's row in the table."""

    before: bytes
    after: bytes
    nbytes: int
    changed: int
    coding: int


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A delta's file, taken apart; pieces, rows and payloads go together."""

    base_sha256: str
    new_sha256: str
    kinds: Kinds
    pieces: Sequence[Piece]
    rows: Sequence[Row]
    payloads: Sequence[memoryview]


def by_elements(dtype: str) -> bool:
    """Whether tensors of this type are told by their changed elements, not whole."""
    return ITEM_BYTES[dtype] == 2


def pieces_of(kinds: Kinds) -> list[Piece]:
    """All chunks, in the order of the file."""
    return [piece for name, kind in sorted(kinds.items()) for piece in _cut(name, *kind)]


def head(kinds: Kinds, base_sha256: str, new_sha256: str) -> bytes:
    """What stands before the payloads."""
    told: dict[str, dict[str, object]] = {"elements": {}, "whole": {}}
    for name, (dtype, shape) in kinds.items():
        told["elements" if base_sha256 and by_elements(dtype) else "whole"][name] = [dtype, shape]
    header = {"base": base_sha256, "chunk": CHUNK, "new": new_sha256, **told}
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 8)
    return _MAGIC + struct.pack("<Q", len(text)) + text


def table(rows: Sequence[Row]) -> bytes:
    """What stands behind the payloads."""
    return b"".join(_ROW.pack(*row) for row in rows)


def parse(whole: memoryview) -> Parts:
    """Take a file apart, copying nothing; one of `UNREADABLE` is raised for what this version cannot read."""
    if bytes(whole[:8]) != _MAGIC:
        raise ValueError("it is no delta of version 1")
    length = int.from_bytes(whole[8:16], "little")
    header = json.loads(bytes(whole[16 : 16 + length]))
    if header["chunk"] != CHUNK:
        raise ValueError(f"its chunks are of {header['chunk']} bytes")
    told = {**header["elements"], **header["whole"]}
    kinds = {name: (str(dtype), tuple(shape)) for name, (dtype, shape) in told.items()}
    pieces = pieces_of(kinds)
    start = len(whole) - _ROW.size * len(pieces)
    if start < 16 + length:
        raise ValueError("it is cut short")
    rows = [Row(*fields) for fields in _ROW.iter_unpack(whole[start:])]
    if any((row.coding == Coding.SAME) != (row.before == row.after) for row in rows):
        raise ValueError("its table contradicts itself")
    ends = [16 + length]
    for row in rows:
        ends.append(ends[-1] + row.nbytes)
    if ends[-1] != start:
        raise ValueError("its parts do not add up to its length")
    payloads = [whole[one:next_one] for one, next_one in pairwise(ends)]
    named = {"base_sha256": str(header["base"]), "new_sha256": str(header["new"])}
    return Parts(**named, kinds=kinds, pieces=pieces, rows=rows, payloads=payloads)


def _cut(name: str, dtype: str, shape: tuple[int, ...]) -> Iterator[Piece]:
    nbytes = prod(shape) * ITEM_BYTES[dtype]
    return (Piece(name, dtype, start, min(start + CHUNK, nbytes)) for start in range(0, nbytes, CHUNK))
