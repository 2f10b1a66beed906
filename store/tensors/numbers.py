"""The numbers in a raw tensor, in NumPy: read piece by piece, and said again in another type.

NumPy has no bfloat16: its bit patterns are the upper half of float32's. Invariant: no piece is larger than
`PIECE` elements, so that a model is never held twice as float32. Knows no file and no model.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.tensors.raw import ITEM_BYTES, RawTensor

Array = NDArray[Any]
PIECE = 1 << 20
"""Elements that are looked at together."""
FLOATS = ("F64", "F32", "F16", "BF16")
"""The types that can be said in one another."""
_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U8": "<u1",
    "BOOL": "<u1",
}


def bits(raw: RawTensor, start: int, end: int) -> Array:
    """Elements `start` to `end` as unsigned integers of their width."""
    width = ITEM_BYTES[raw.dtype]
    return np.frombuffer(memoryview(raw.data)[start * width : end * width], f"<u{width}")


def values(raw: RawTensor, start: int, end: int) -> Array:
    """Elements `start` to `end` as numbers: bfloat16 as float32, the rest as they are."""
    if raw.dtype == "BF16":
        return (bits(raw, start, end).astype(np.uint32) << np.uint32(16)).view("<f4")
    width = ITEM_BYTES[raw.dtype]
    return np.frombuffer(memoryview(raw.data)[start * width : end * width], _TYPES[raw.dtype])


def count(raw: RawTensor) -> int:
    """How many elements it has."""
    return len(raw.data) // ITEM_BYTES[raw.dtype]


def survives(raw: RawTensor, dtype: str) -> bool:
    """Whether every element is the same in this type, bit for bit on the way back."""
    if raw.dtype == dtype:
        return True
    if not {raw.dtype, dtype} <= set(FLOATS):
        return False
    size = count(raw)
    for start in range(0, size, PIECE):
        end = min(start + PIECE, size)
        said = RawTensor(dtype=dtype, shape=(end - start,), data=_said(values(raw, start, end), dtype))
        if _said(values(said, 0, end - start), raw.dtype) != bits(raw, start, end).tobytes():
            return False
    return True


def said_as(raw: RawTensor, dtype: str) -> Iterator[bytes | memoryview]:
    """The tensor's bytes in this type, piece by piece; ask `survives` first."""
    if raw.dtype == dtype:
        yield raw.data
        return
    size = count(raw)
    for start in range(0, size, PIECE):
        yield _said(values(raw, start, min(start + PIECE, size)), dtype)


def _said(found: Array, dtype: str) -> bytes:
    """Numbers as the bytes of this type, cut towards zero where bfloat16 is too short for them."""
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is found when it is read back
        if dtype == "BF16":
            patterns = np.ascontiguousarray(found, "<f4").view("<u4")
            return (patterns >> np.uint32(16)).astype("<u2").tobytes()
        return found.astype(_TYPES[dtype]).tobytes()
