"""The numbers in a raw tensor, decoded to NumPy arrays and encoded in other types.

NumPy has no bfloat16. The bit pattern of a bfloat16 is the upper half of that of a float32.

Invariant: a conversion handles at most `PIECE` elements at a time, so that a model is never in memory a
second time as float32. This module knows nothing about files or models.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.tensors.raw import ITEM_BYTES, RawTensor

Array = NDArray[Any]
PIECE = 1 << 20
"""Most elements that are converted together."""
FLOATS = ("F64", "F32", "F16", "BF16")
"""The types between which numbers can be converted."""
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


def bits(raw: RawTensor, start: int = 0, end: int | None = None) -> Array:
    """Return the bit patterns from element `start` up to `end`, as unsigned integers of the same width."""
    return np.frombuffer(_bytes(raw, start, end), f"<u{ITEM_BYTES[raw.dtype]}")


def values(raw: RawTensor, start: int = 0, end: int | None = None) -> Array:
    """Return the numbers from element `start` up to `end`: bfloat16 as float32, other types as they are."""
    if raw.dtype == "BF16":
        return (bits(raw, start, end).astype(np.uint32) << np.uint32(16)).view("<f4")
    return np.frombuffer(_bytes(raw, start, end), _TYPES[raw.dtype])


def count(raw: RawTensor) -> int:
    """Return the number of elements of a tensor."""
    return len(raw.data) // ITEM_BYTES[raw.dtype]


def converts_exactly(raw: RawTensor, dtype: str) -> bool:
    """Return whether every element has the same bits after a conversion to this type and back."""
    if raw.dtype == dtype:
        return True
    if not {raw.dtype, dtype} <= set(FLOATS):
        return False
    size = count(raw)
    for start in range(0, size, PIECE):
        end = min(start + PIECE, size)
        data = _encoded(values(raw, start, end), dtype)
        converted = RawTensor(dtype=dtype, shape=(end - start,), data=data)
        if _encoded(values(converted), raw.dtype) != bits(raw, start, end).tobytes():
            return False
    return True


def convert(raw: RawTensor, dtype: str) -> Iterator[bytes | memoryview]:
    """Yield the tensor's bytes in this type, piece by piece; check `converts_exactly` first."""
    if raw.dtype == dtype:
        yield raw.data
        return
    size = count(raw)
    for start in range(0, size, PIECE):
        yield _encoded(values(raw, start, min(start + PIECE, size)), dtype)


def rounded(numbers: NDArray[np.float32], dtype: str) -> Array:
    """Return the bit patterns of these numbers, rounded to the nearest numbers of a type.

    A tie is rounded to even. A number that is too large becomes infinite.

    Args:
        numbers: The numbers, float32, of any shape.
        dtype: The type to round to: F32, F16 or BF16.
    """
    if dtype == "F32":
        return numbers.view(np.uint32)
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return numbers.astype(np.float16).view(np.uint16)
    patterns = numbers.view(np.uint32)
    nearest = (patterns + (np.uint32(0x7FFF) + ((patterns >> 16) & np.uint32(1)))) >> 16
    return np.where(np.isnan(numbers), (patterns >> 16) | 0x40, nearest).astype(np.uint16)


def _bytes(raw: RawTensor, start: int, end: int | None) -> memoryview:
    width = ITEM_BYTES[raw.dtype]
    return memoryview(raw.data)[start * width : None if end is None else end * width]


def _encoded(numbers: Array, dtype: str) -> bytes:
    """Return the bytes of these numbers in a type; bfloat16 is rounded towards zero."""
    with np.errstate(over="ignore", invalid="ignore"):  # `converts_exactly` finds what does not fit
        if dtype == "BF16":
            patterns = np.ascontiguousarray(numbers, "<f4").view("<u4")
            return (patterns >> np.uint32(16)).astype("<u2").tobytes()
        return numbers.astype(_TYPES[dtype]).tobytes()
