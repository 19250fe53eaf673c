"""Counter-based random numbers: the same numbers on every device, thread count and operating system.

A generator with hidden state gives numbers that depend on who asked before. A counter-based one is a function:

    bits = philox(key, counter)

so any element of any array can be drawn alone, in any order, by any number of threads, and drawn again in a backward
pass instead of being kept. The four counter words of one key are

    (column // 4, row, offset, stream · 2¹⁶ + head)        each call yields four 32-bit numbers, for columns 4i … 4i+3

keyed by the 64-bit seed. An array of shape (..., C) is drawn as rows of C columns; attention weights (B, H, T, S) are
drawn head by head, row b·T + t, so one head drawn alone gets exactly the numbers it gets among all heads.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), Philox 4x32-10.
"""

from dataclasses import dataclass
from math import prod
from operator import index
from typing import Any, NamedTuple

import numpy as np

from .errors import RangeError

__all__ = [
    "Generator",
    "RandomKey",
    "default_generator",
    "default_seed",
    "integers",
    "keep_mask",
    "normal",
    "seed",
    "uniform",
]

# What a stream is for: keys of different streams never share a counter.
INITIALIZATION, DROPOUT, BATCHES, SAMPLING, CORPUS = range(5)

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # the golden ratio and √3 − 1, as 32-bit fractions
LOW_WORD = 0xFFFFFFFF
ROUNDS = 10


class RandomKey(NamedTuple):
    """The address of one array's worth of random numbers.

    seed: 64-bit key. stream: what the numbers are for, below 2¹⁶. offset: which array of that stream, below 2³².
    head: the first attention head of the array, below 2¹⁶.
    """

    seed: int
    stream: int
    offset: int
    head: int = 0

    def for_head(self, head: int) -> "RandomKey":
        """Return the key of one head's part of an attention key."""
        return self._replace(head=self.head + head)

    @property
    def words(self) -> tuple[int, int, int, int]:
        """The lower and the upper half of the seed, the offset, and stream and head in one word, as Python's integers.

        NumPy's would overflow in Philox.
        """
        seed, offset = int(self.seed), int(self.offset)
        return seed & LOW_WORD, seed >> 32, offset, (int(self.stream) << 16) + int(self.head)


@dataclass
class Generator:
    """Hands out random keys, one offset after the other. Its whole state is three integers."""

    seed: int = 0
    stream: int = INITIALIZATION
    offset: int = 0

    def __post_init__(self) -> None:
        try:
            self.seed = index(self.seed)  # NumPy's integers would overflow in Philox
        except TypeError:
            raise RangeError(f"Generator: a seed is an integer in [0, 2⁶⁴), got {self.seed!r}.") from None
        if not 0 <= self.seed < 2**64:
            raise RangeError(f"Generator: a seed lies in [0, 2⁶⁴), got {self.seed}. Give a non-negative integer.")

    def next(self) -> RandomKey:
        """Return the next key; no two calls return the same."""
        key = RandomKey(self.seed, self.stream, self.offset)
        self.offset += 1
        return key


_defaults = {stream: Generator(stream=stream) for stream in (INITIALIZATION, DROPOUT)}


def default_generator(stream: int = INITIALIZATION) -> Generator:
    """Return the generator of modules that were given none: of initial weights, or of dropout."""
    return _defaults[stream]


def default_seed(seed: int | None = None) -> int:
    """Return a seed as it is; for None, which a model built without one has, what `seed()` set, 0 before."""
    return _defaults[INITIALIZATION].seed if seed is None else seed


def seed(value: int) -> None:
    """Start the default generators anew: modules and models built after equal seeds have equal weights and dropout.

    A model that is given a seed of its own, `GPT(config, seed=1)`, keeps to that one.
    """
    for generator in _defaults.values():
        generator.seed, generator.offset = Generator(value).seed, 0


def philox(key: int, words: tuple[Any, Any, Any, Any]) -> tuple[Any, Any, Any, Any]:
    """Return Philox 4x32-10 of four counter words under a 64-bit key.

    words: uint64 arrays that hold 32-bit values and broadcast.
    """
    c0, c1, c2, c3 = words
    k0, k1 = key & LOW_WORD, key >> 32
    m0, m1, low = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1]), np.uint64(LOW_WORD)
    word = np.uint64(32)
    for _ in range(ROUNDS):
        product0, product1 = c0 * m0, c2 * m1
        c0, c1, c2, c3 = (
            (product1 >> word) ^ c1 ^ np.uint64(k0),
            product1 & low,
            (product0 >> word) ^ c3 ^ np.uint64(k1),
            product0 & low,
        )
        k0, k1 = (k0 + KEY_STEPS[0]) & LOW_WORD, (k1 + KEY_STEPS[1]) & LOW_WORD
    return c0, c1, c2, c3


def random_bits(key: RandomKey, rows: int, columns: int, heads: int = 1, xp: Any = np, first: int = 0) -> Any:
    """Return 32 random bits for each element of (heads, rows, columns), as uint32.

    first: the number of the first row.
    """
    quads = -(-columns // 4)
    _, _, offset, head = key.words
    words = philox(
        int(key.seed),
        (
            xp.arange(quads, dtype=xp.uint64),
            xp.arange(first, first + rows, dtype=xp.uint64)[:, None],
            xp.full((1, 1), offset, dtype=xp.uint64),
            xp.arange(heads, dtype=xp.uint64)[:, None, None] + np.uint64(head),
        ),
    )
    full = (heads, rows, quads)
    bits = xp.stack([xp.broadcast_to(word, full) for word in words], axis=-1).astype(xp.uint32)
    return bits.reshape(heads, rows, quads * 4)[:, :, :columns]


# Numbers made at a time: their temporaries, twenty times as large, stay in cache. All at once took GPT-2's 20 seconds.
AT_A_TIME = 1 << 15


def _bits_of_shape(key: RandomKey, shape: tuple[int, ...], xp: Any) -> Any:
    if len(shape) == 0:
        return random_bits(key, 1, 1, xp=xp).reshape(())
    return random_bits(key, prod(shape[:-1]), shape[-1], xp=xp).reshape(shape)


def uniform(key: RandomKey, shape: tuple[int, ...], dtype: Any = np.float32, xp: Any = np) -> Any:
    """Return numbers uniform on [0, 1): 24 random bits each, exact in float32."""
    return (_bits_of_shape(key, shape, xp) >> np.uint32(8)).astype(dtype) * np.dtype(dtype).type(2.0**-24)


def normal(key: RandomKey, shape: tuple[int, ...], dtype: Any = np.float32, xp: Any = np) -> Any:
    """Return standard normal numbers (Box and Muller 1958), computed in float64, rounded to dtype.

    z = √(−2 ln u₁) · cos(2π u₂), with u₁ in (0, 1] from the even columns of an array twice as wide, u₂ from the odd.
    """
    rows, columns = prod(shape[:-1]), shape[-1] if shape else 1
    z = xp.empty((rows, columns), dtype)
    step = max(1, AT_A_TIME // max(1, columns) if xp is np else rows)
    for first in range(0, rows, step):
        some = min(step, rows - first)
        pairs = random_bits(key, some, 2 * columns, xp=xp, first=first)[0].astype(xp.float64)
        u1, u2 = (pairs[:, 0::2] + 1.0) * 2.0**-32, pairs[:, 1::2] * 2.0**-32
        z[first : first + some] = xp.sqrt(-2.0 * xp.log(u1)) * xp.cos(2.0 * np.pi * u2)
    return z.reshape(shape)


def integers(key: RandomKey, shape: tuple[int, ...], high: int, xp: Any = np) -> Any:
    """Return integers uniform on [0, high), as int64: ⌊bits · high / 2³²⌋ (Lemire 2019, without rejection).

    Raises RangeError unless high lies in [1, 2³²].
    """
    if not 0 < high <= 2**32:
        raise RangeError(f"integers: high lies in [1, 2³²], got {high}. Give a positive bound.")
    scaled = _bits_of_shape(key, shape, xp).astype(xp.uint64) * np.uint64(high)
    return (scaled >> np.uint64(32)).astype(xp.int64)


def keep_mask(key: RandomKey, probability: float, shape: tuple[int, ...], xp: Any = np) -> Any:
    """Return True where dropout keeps an element: where its 32 bits are at least probability · 2³².

    A shape of four axes (B, H, T, S) is drawn head by head, as the module's docstring says; any other by rows.
    """
    threshold = np.uint32(dropout_threshold(probability))
    if len(shape) != 4:
        return _bits_of_shape(key, shape, xp) >= threshold
    B, H, T, S = shape
    return (random_bits(key, B * T, S, heads=H, xp=xp) >= threshold).reshape(H, B, T, S).swapaxes(0, 1)


def dropout_threshold(probability: float) -> int:
    """Return the number of 32-bit values that mean "drop", for a probability in [0, 1)."""
    return min(round(probability * 2**32), 2**32 - 1)
