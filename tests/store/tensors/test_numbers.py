"""The numbers in raw tensors: bfloat16 against its definition, and conversions in both directions."""

import struct

import numpy as np
import pytest

from store.tensors.numbers import convert, converts_exactly, rounded, values
from store.tensors.raw import RawTensor


def raw(numbers: object, dtype: str) -> RawTensor:
    array = np.asarray(numbers, "<f4")
    data = (array.view("<u4") >> 16).astype("<u2") if dtype == "BF16" else array
    return RawTensor(dtype=dtype, shape=array.shape, data=data.tobytes())


def test_bfloat16_is_the_upper_half_of_float32() -> None:
    tried = [0.0, -0.0, 1.0, -2.5, 3.0e38, 1e-40, float("inf")]
    short = raw(tried, "BF16")
    cut = np.asarray(tried, "<f4").view("<u4") & 0xFFFF0000
    assert values(short).view("<u4").tolist() == cut.tolist()
    assert values(short, 2, 4).tolist() == [1.0, -2.5]
    assert b"".join(convert(short, "F32")) == cut.astype("<u4").tobytes()


@pytest.mark.parametrize(
    "number, dtype, to, fits",
    [
        (1.5, "F32", "BF16", True),
        (1.0 + 2**-10, "F32", "BF16", False),
        (1.0 + 2**-10, "F32", "F16", True),
        (1.0 + 2**-11, "F32", "F16", False),
        (3.0e38, "BF16", "F16", False),
        (float("nan"), "BF16", "F32", True),
        (float("inf"), "F32", "F16", True),
        (1.5, "BF16", "I16", False),
    ],
)
def test_a_conversion_is_exact_if_its_inverse_gives_the_same_bits(
    number: float, dtype: str, to: str, fits: bool
) -> None:
    assert converts_exactly(raw([0.5, number], dtype), to) is fits
    if fits:
        converted = RawTensor(dtype=to, shape=(2,), data=b"".join(convert(raw([0.5, number], dtype), to)))
        assert b"".join(convert(converted, dtype)) == raw([0.5, number], dtype).data


@pytest.mark.parametrize(
    "number, pattern",
    [
        (1.0, 0x3F80),
        (1.0 + 2**-8, 0x3F80),  # half way between 0x3F80 and 0x3F81: to the even one
        (1.0 + 3 * 2**-8, 0x3F82),  # half way between 0x3F81 and 0x3F82
        (1.0 + 2**-8 + 2**-20, 0x3F81),  # just over half way
        (1.0 + 3 * 2**-8 - 2**-20, 0x3F81),
        (-1.0 - 2**-8, 0xBF80),
        (float(np.finfo(np.float32).max), 0x7F80),  # over the largest: infinite
        (2.0**-133, 0x0001),  # the smallest there is
        (2.0**-134, 0x0000),  # half of it: to the even one
        (3 * 2.0**-134, 0x0002),
    ],
)
def test_a_number_is_rounded_to_the_nearest_bfloat16_and_to_the_even_one_in_a_tie(
    number: float, pattern: int
) -> None:
    assert rounded(np.array([number], np.float32), "BF16").tolist() == [pattern]


def test_nan_stays_nan_in_bfloat16() -> None:
    patterns = np.array([0x7FC00000, 0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    values = rounded(patterns, "BF16")
    assert np.isnan((values.astype(np.uint32) << 16).view(np.float32)).all()


def test_every_bfloat16_makes_the_round_trip() -> None:
    data = np.arange(65536, dtype=np.uint16).tobytes()
    numbers = values(RawTensor(dtype="BF16", shape=(65536,), data=data))
    finite = ~np.isnan(numbers)
    assert (rounded(numbers, "BF16") == np.arange(65536))[finite].all()
    assert numbers[0x3FC0] == struct.unpack(">f", bytes([0x3F, 0xC0, 0, 0]))[0] == 1.5
