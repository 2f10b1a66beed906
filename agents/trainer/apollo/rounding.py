"""Repeatable randomness: the seeds of draws, and stochastic rounding from float32 to bfloat16.

At the learning rates of an update, most steps are far smaller than the distance between two neighbouring
bfloat16 numbers. Rounding to nearest would lose such steps. Stochastic rounding keeps them on average: it
rounds up with a probability equal to the value's relative distance from the lower number.

Invariant: a seed depends on the seed and names that it is derived from alone. A rounded value depends on the
value, the key and the element's index alone, not on the device, the number of threads or the chunk size;
`kernel.c` draws the same bits. This module knows nothing about the optimizer.
"""

import hashlib
import json

import torch

CHUNK = 1 << 22
"""Elements that are rounded at a time; each needs 8 bytes of temporary memory."""
_LOW = 0xFFFFFFFF


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed that is derived from a seed and these names."""
    text = json.dumps([seed, *names], separators=(",", ":")).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def stochastic_round(values: torch.Tensor, key: int) -> torch.Tensor:
    """Return float32 values rounded to bfloat16, up or down at random; NaN and infinity stay as they are."""
    flat = values.detach().to(torch.float32).contiguous().reshape(-1)
    rounded = torch.empty(flat.shape, dtype=torch.bfloat16, device=flat.device)
    for start in range(0, flat.numel(), CHUNK):
        part = flat[start : start + CHUNK]
        noise = counter_bits(key, start, part.numel(), part.device) & 0xFFFF
        # float32 is sign and magnitude: a larger bit pattern is further from zero, whatever the sign.
        bits = (part.view(torch.int32) + noise) & -65536
        part = torch.where(torch.isfinite(part), bits.view(torch.float32), part)
        rounded[start : start + CHUNK] = part.to(torch.bfloat16)  # exact: the low half is zero
    return rounded.reshape(values.shape)


def counter_bits(key: int, start: int, count: int, device: torch.device) -> torch.Tensor:
    """Return 32 random bits for each index from `start` on, as int32, by two rounds of a mixing function."""
    first, second = (_signed(word) for word in keys_of(key))
    index = torch.arange(start, start + count, dtype=torch.int64, device=device)
    mixed = _mix(index.to(torch.int32) ^ first)  # the conversion keeps the low word
    return _mix(mixed ^ (index >> 32).to(torch.int32) ^ second)


def keys_of(key: int) -> tuple[int, int]:
    """Return the two 32-bit words of a key.

    The key is hashed: keys that differ in a few low bits would otherwise give the same bits in another order,
    and their errors would add up over the steps.
    """
    return derive_seed(key, "first") & _LOW, derive_seed(key, "second") & _LOW


def _mix(x: torch.Tensor) -> torch.Tensor:
    """Return x mixed by a bijection of 32-bit words (lowbias32).

    Each input bit flips each output bit in half of the cases.
    """
    x = (x ^ _right(x, 16)) * _signed(0x7FEB352D)
    x = (x ^ _right(x, 15)) * _signed(0x846CA68B)
    return x ^ _right(x, 16)


def _right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Return x shifted right and filled with zeros; torch's own shift would repeat the sign bit."""
    return (x >> bits) & (_LOW >> bits)


def _signed(word: int) -> int:
    """Return the int32 with these 32 bits."""
    return word - (word >> 31 << 32)
