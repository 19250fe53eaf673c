"""One token drawn from logits: repetition penalty, temperature, top-k, top-p, min-p, then one random number.

    logits (V,) -> those of seen tokens lowered -> softmax(logits / temperature) -> the k most probable
        -> the nucleus of mass p -> those at least min_p times as probable as the first -> inverse CDF -> id

Each step works on what the one before left, renormalized: the mass that top-p counts is that of the k tokens left. All
is computed in float64 on the CPU, so that the same logits and the same draw give the same token on every device.

Sources: the repetition penalty is of Keskar et al. 2019, "CTRL", section 4.1; top-k of Fan, Lewis, Dauphin,
"Hierarchical neural story generation" (ACL 2018), the nucleus of Holtzman et al., "The curious case of neural text
degeneration" (ICLR 2020), min-p of Nguyen et al., "Turning up the heat" (ICLR 2025).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array, to_numpy
from ..errors import NonFiniteError, RangeError, ShapeError
from ..random import RandomKey, uniform

__all__ = ["check_sampling", "probabilities", "sample", "where_highest"]


def check_sampling(
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
) -> None:
    """Raise RangeError unless all lie in their ranges.

    temperature is finite and at least 0, top_k whole and at least 1, top_p and min_p lie in (0, 1], repetition_penalty
    is finite and above 0.
    """
    if not 0.0 <= temperature < math.inf:
        raise RangeError(
            f"sample: temperature is a finite number of at least 0, got {temperature}. "
            "Give 0 for the most probable token each time, 1 for the model's own probabilities."
        )
    if top_k is not None and (not isinstance(top_k, int | np.integer) or top_k < 1):
        raise RangeError(
            f"sample: top_k is a whole number of at least 1, got {top_k}. Leave it out to draw from all tokens."
        )
    for name, value in (("top_p", top_p), ("min_p", min_p)):
        if value is not None and not 0.0 < value <= 1.0:
            raise RangeError(f"sample: {name} lies in (0, 1], got {value}. Leave it out to draw from all tokens.")
    if not 0.0 < repetition_penalty < math.inf:
        raise RangeError(
            f"sample: repetition_penalty is a finite number above 0, got {repetition_penalty}. "
            "Give 1 for none, more than 1 to make tokens that were there rarer."
        )


def probabilities(
    logits: Array,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seen: Sequence[int] = (),
) -> NDArray[np.float64]:
    """The distribution that `sample` draws from: (V,) float64, zero where a token was cut off.

    repetition_penalty divides the logits of the tokens in `seen` where they are positive, and multiplies them where
    they are negative; how often a token was seen counts for nothing. temperature 0 puts all mass on the most probable
    token, the first of equals. top_k keeps the k most probable, all of them where k is V or more; top_p the fewest most
    probable whose mass reaches p, at least one; min_p those whose probability is at least min_p times the highest. Of
    equals, top_k and top_p keep those with the lower ids.

    logits: (V,) floats; −∞ means never. Raises RangeError for an option outside its range, or an id in `seen` outside
    the vocabulary, ShapeError for other axes, NonFiniteError for NaN, +∞, or nothing but −∞.
    """
    check_sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    scores = _below_zero(logits, repetition_penalty, seen)
    if temperature == 0.0:
        return np.eye(1, scores.size, int(scores.argmax()))[0]
    return _mass(scores, temperature, top_k, top_p, min_p)


def _mass(
    scores: NDArray[np.float64], temperature: float, top_k: int | None, top_p: float | None, min_p: float | None
) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):  # a temperature next to 0 sends all but the highest to −∞, as it should
        mass = np.exp(scores / temperature)
    mass /= mass.sum()
    if top_k is not None and top_k < scores.size:
        mass = _only(mass, where_highest(scores, top_k))
    if top_p is not None and top_p < 1.0:  # at 1 all are kept, wherever rounding lets their sum reach 1
        mass = _only(mass, _nucleus(scores, mass, top_p))
    if min_p is not None:
        mass[mass < min_p * mass.max()] = 0.0
        mass /= mass.sum()
    return mass


def _only(mass: NDArray[np.float64], ids: Sequence[int]) -> NDArray[np.float64]:
    kept = np.zeros_like(mass)
    kept[ids] = mass[ids]
    kept /= kept.sum()
    return kept


def _nucleus(scores: NDArray[np.float64], mass: NDArray[np.float64], top_p: float) -> list[int]:
    """The fewest most probable tokens whose mass reaches top_p. The first few suffice most times, and sort fast."""
    count = 64
    while True:
        ids = where_highest(scores, count)
        reached = np.cumsum(mass[ids])
        if reached[-1] >= top_p or count >= scores.size:
            return ids[: int(np.searchsorted(reached, top_p)) + 1]
        count *= 8


def where_highest(scores: NDArray[np.float64], count: int) -> list[int]:
    """Where the `count` highest finite scores are, the highest first; of equals the first."""
    if count < scores.size:
        lowest = np.partition(scores, scores.size - count)[scores.size - count]
        chosen = np.flatnonzero(scores >= lowest)
    else:
        chosen = np.arange(scores.size)
    chosen = chosen[np.isfinite(scores[chosen])]
    return chosen[np.argsort(-scores[chosen], kind="stable")][:count].tolist()


def sample(
    logits: Array,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seen: Sequence[int] = (),
    *,
    key: RandomKey,
) -> tuple[int, float]:
    """Draw one token: its id, and the logarithm of the probability that the model itself gives it.

    The options are those of `probabilities`; the log-probability is that of softmax(logits), before any of them.
    """
    check_sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    plain = _below_zero(logits)
    scores = plain if repetition_penalty == 1.0 else _below_zero(logits, repetition_penalty, seen)
    if temperature == 0.0:
        token = int(scores.argmax())
    else:
        cumulative = np.cumsum(_mass(scores, temperature, top_k, top_p, min_p))
        u = uniform(key, (), np.float64)
        # The first id whose cumulative mass exceeds u: u is below 1, so there is one, and its own mass is not zero.
        token = int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))
    return token, float(plain[token] - np.log(np.exp(plain).sum()))


def _below_zero(logits: Array, penalty: float = 1.0, seen: Sequence[int] = ()) -> NDArray[np.float64]:
    """The logits in float64, penalized, then shifted so that the highest is 0: no exponential can overflow."""
    scores = to_numpy(logits).astype(np.float64)
    if scores.ndim != 1 or scores.size == 0:
        raise ShapeError(
            f"sample: logits have shape (V,) with V at least 1, got {scores.shape}. Give those of one position."
        )
    if penalty != 1.0 and len(seen):
        ids = np.unique(seen)
        if ids[0] < 0 or ids[-1] >= scores.size:
            raise RangeError(f"sample: seen tokens lie in [0, {scores.size}), got {ids[0]} to {ids[-1]}.")
        scores[ids] = np.where(scores[ids] > 0, scores[ids] / penalty, scores[ids] * penalty)
    highest = scores.max()
    if not np.isfinite(highest):  # NaN too: it is the maximum of whatever holds one
        raise NonFiniteError(
            f"sample: logits are finite, or −∞ for a token that never comes, got {highest} for the highest. "
            "The model has diverged: generate from an earlier checkpoint."
        )
    return scores - highest
