"""Quantized tensors of GGUF files: blocks of numbers that share a scale d, and in some types a minimum m, both float16.

    F32, F16, BF16   floats as they are
    Q8_0             32 signed bytes q:                  x = d q
    Q4_0             32 four-bit numbers q:              x = d (q − 8)
    Q4_1                                                 x = d q + m
    Q5_0             32 five-bit numbers q:              x = d (q − 16)
    Q5_1                                                 x = d q + m
    Q4_K             8 groups of 32 four-bit numbers:    x = d s q − m t,  s and t six-bit numbers of the group
    Q5_K             8 groups of 32 five-bit numbers:    x = d s q − m t
    Q6_K             16 groups of 16 six-bit numbers:    x = d s (q − 32),  s a signed byte of the group

Four-bit numbers are the lower halves of bytes, then their upper halves; further bits lie elsewhere in the block.

Source: ggml-quants.c of ggml.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..arrays import Array
from ..ops.quantized import from_bfloat16, quantize_groups

__all__ = ["KINDS", "Kind", "quantize_q8_0"]

BLOCK, LARGE = 32, 256


class Kind(NamedTuple):
    """A type of tensors. block: the numbers in a block. size: its bytes. decode: from bytes (N, size) to (N, block)."""

    name: str
    block: int
    size: int
    decode: Callable[[Array], Array]


def _half(blocks: Array, at: int = 0) -> Array:
    """Return the float16 number at a byte of each block, as float32 (N, 1)."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: Array) -> Array:
    """Return the lower, then the upper halves of bytes: (..., n) becomes (..., 2 n)."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _bits(packed: Array, width: int) -> Array:
    """Return the numbers of `width` bits in bytes, (..., n) becomes (8 / width, ..., n), the lowest bits first."""
    shifts = np.arange(0, 8, width, dtype=np.uint8).reshape(-1, *[1] * packed.ndim)
    return packed >> shifts & np.uint8((1 << width) - 1)


def _q8_0(blocks: Array) -> Array:
    quants: Array = blocks[:, 2:].view(np.int8).astype(np.float32)
    return quants * _half(blocks)


def _q4_0(blocks: Array) -> Array:
    return (_nibbles(blocks[:, 2:]).astype(np.float32) - np.float32(8)) * _half(blocks)


def _q4_1(blocks: Array) -> Array:
    return _nibbles(blocks[:, 4:]).astype(np.float32) * _half(blocks) + _half(blocks, 2)


def _fives(fifths: Array, packed: Array) -> Array:
    """Return 32 five-bit numbers a block; the fifth bits are those of 4 bytes, one after the other."""
    high = np.unpackbits(fifths, axis=1, bitorder="little")
    return (_nibbles(packed) | high << 4).astype(np.float32)


def _q5_0(blocks: Array) -> Array:
    return (_fives(blocks[:, 2:6], blocks[:, 6:]) - np.float32(16)) * _half(blocks)


def _q5_1(blocks: Array) -> Array:
    return _fives(blocks[:, 4:8], blocks[:, 8:]) * _half(blocks) + _half(blocks, 2)


def _scales_and_minima(blocks: Array) -> tuple[Array, Array]:
    """Return d s and m t of the 8 groups, (N, 8, 1) each, from the first 16 bytes of a block of Q4_K or Q5_K."""
    first, second, third = (blocks[:, at : at + 4] for at in (4, 8, 12))
    scales = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=1)
    minima = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=1)
    return (_half(blocks) * scales)[..., None], (_half(blocks, 2) * minima)[..., None]


def _q4_k(blocks: Array) -> Array:
    scales, minima = _scales_and_minima(blocks)
    quants = _nibbles(blocks[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32).astype(np.float32)
    x: Array = (scales * quants - minima).reshape(-1, LARGE)
    return x


def _q5_k(blocks: Array) -> Array:
    scales, minima = _scales_and_minima(blocks)
    low = _nibbles(blocks[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    high = _bits(blocks[:, 16:48], 1).swapaxes(0, 1)  # bit g of byte j belongs to number j of group g
    x: Array = (scales * (low | high << 4).astype(np.float32) - minima).reshape(-1, LARGE)
    return x


def _q6_k(blocks: Array) -> Array:
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64))  # two halves of 128 numbers
    high = np.moveaxis(_bits(blocks[:, 128:192].reshape(-1, 2, 32), 2), 0, 2).reshape(-1, 2, 128)
    quants = (low | high << 4).astype(np.float32).reshape(-1, 16, 16) - np.float32(32)
    scales = blocks[:, 192:208].view(np.int8).astype(np.float32) * _half(blocks, 208)
    x: Array = (scales[..., None] * quants).reshape(-1, LARGE)
    return x


KINDS = {
    0: Kind("F32", 1, 4, lambda blocks: blocks.view("<f4")),
    1: Kind("F16", 1, 2, lambda blocks: blocks.view("<f2").astype(np.float32)),
    2: Kind("Q4_0", BLOCK, 18, _q4_0),
    3: Kind("Q4_1", BLOCK, 20, _q4_1),
    6: Kind("Q5_0", BLOCK, 22, _q5_0),
    7: Kind("Q5_1", BLOCK, 24, _q5_1),
    8: Kind("Q8_0", BLOCK, 34, _q8_0),
    12: Kind("Q4_K", LARGE, 144, _q4_k),
    13: Kind("Q5_K", LARGE, 176, _q5_k),
    14: Kind("Q6_K", LARGE, 210, _q6_k),
    30: Kind("BF16", 1, 2, lambda blocks: from_bfloat16(blocks.view("<u2"))),
}


def quantize_q8_0(x: Array) -> bytes:
    """Return the blocks of Q8_0 of an array whose rows are whole blocks: d = max |x| / 127, q = x / d, rounded."""
    quants, scales = quantize_groups(np.asarray(x, np.float32).reshape(-1, BLOCK))
    return np.concatenate([scales[:, None].astype("<f2").view(np.uint8), quants.view(np.uint8)], axis=1).tobytes()
