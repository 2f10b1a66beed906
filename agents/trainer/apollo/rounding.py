"""Stochastic rounding from float32 to bfloat16, repeatable bit for bit.

At the learning rates of an update most steps are far smaller than a bfloat16 unit in the last place: rounded
to nearest they are lost, rounded at random (up with the probability of the distance) they survive on average.

Invariant: the result depends on the values, the key and each element's index alone: not on the device, the
number of threads or the chunk size. Knows no optimizer; `kernel.c` draws the same bits.
"""

import torch

from agents.trainer.apollo.seeds import derive

CHUNK = 1 << 22
"""Elements at a time: the generator needs 8 bytes of scratch for each."""
_LOW = 0xFFFFFFFF


def stochastic_round(values: torch.Tensor, key: int) -> torch.Tensor:
    """Round float32 `values` of any shape to bfloat16, up or down at random; non-finite values stay."""
    flat = values.detach().to(torch.float32).contiguous().reshape(-1)
    rounded = torch.empty(flat.shape, dtype=torch.bfloat16, device=flat.device)
    for start in range(0, flat.numel(), CHUNK):
        part = flat[start : start + CHUNK]
        noise = counter_bits(key, start, part.numel(), part.device) & 0xFFFF
        # float32 is sign and magnitude: adding to the bits moves away from zero, whatever the sign.
        bits = (part.view(torch.int32) + noise) & -65536
        part = torch.where(torch.isfinite(part), bits.view(torch.float32), part)
        rounded[start : start + CHUNK] = part.to(torch.bfloat16)  # exact: the low half is zero
    return rounded.reshape(values.shape)


def counter_bits(key: int, start: int, count: int, device: torch.device) -> torch.Tensor:
    """32 random bits for each index from `start` on, as int32: two rounds of a mixing function."""
    first, second = (_signed(word) for word in keys_of(key))
    index = torch.arange(start, start + count, dtype=torch.int64, device=device)
    mixed = _mix(index.to(torch.int32) ^ first)  # the low word: the conversion wraps
    return _mix(mixed ^ (index >> 32).to(torch.int32) ^ second)


def keys_of(key: int) -> tuple[int, int]:
    """The two 32-bit words that a key mixes in.

    It is hashed first: keys that differ in a few low bits would otherwise give the same bits in another order,
    and their errors would add up over the steps.
    """
    return derive(key, "first") & _LOW, derive(key, "second") & _LOW


def _mix(x: torch.Tensor) -> torch.Tensor:
    """A bijection of 32-bit words in which each input bit flips each output bit half the time (lowbias32)."""
    x = (x ^ _right(x, 16)) * _signed(0x7FEB352D)
    x = (x ^ _right(x, 15)) * _signed(0x846CA68B)
    return x ^ _right(x, 16)


def _right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """x shifted right with zeros, where torch would repeat the sign."""
    return (x >> bits) & (_LOW >> bits)


def _signed(word: int) -> int:
    """The int32 with these 32 bits."""
    return word - (word >> 31 << 32)
