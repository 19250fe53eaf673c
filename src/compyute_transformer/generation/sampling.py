"""Sample one token from logits: repetition penalty, temperature, top-k, top-p, min-p, then one random number.

logits (V,) -> logits of seen tokens lowered -> softmax(logits / temperature) -> the k most probable tokens
    -> the most probable tokens of mass p -> those at least min_p times as probable as the first -> inverse CDF -> id

Each step works on the result of the one before, renormalized: the mass that top-p counts is that of the k tokens that
top-k kept. Everything is computed in float64 on the CPU, so that the same logits and the same random key give the same
token on every device.

Sources: Keskar et al. 2019, "CTRL", section 4.1 (repetition penalty); Fan, Lewis, Dauphin, "Hierarchical neural story
generation" (ACL 2018, top-k); Holtzman et al., "The curious case of neural text degeneration" (ICLR 2020, top-p);
Nguyen et al., "Turning up the heat" (ICLR 2025, min-p).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array, to_numpy
from ..errors import ConfigError, DtypeError, NonFiniteError, RangeError, ShapeError
from ..random import RandomKey, uniform

__all__ = [
    "MODEL_PROBABILITIES",
    "Sampling",
    "check_count",
    "choose",
    "probabilities",
    "sample",
    "where_highest",
    "with_options",
]

MOST_TOKENS = 10**9  # more than anyone waits for: their ids alone fill the memory


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, and when generation stops. It is validated once, and passed whole.

    temperature: divides the logits; 0 takes the most probable token each time, the first of equals. top_k: keep the k
    most probable tokens. top_p: keep the fewest most probable tokens whose mass reaches p, at least one. min_p: keep
    the tokens whose probability is at least min_p times the highest. Of equal tokens, top_k and top_p keep those with
    the lower ids. repetition_penalty: divides the positive logits of the tokens seen so far, and multiplies the
    negative ones; how often a token was seen does not matter. seed: equal seeds give equal tokens. stop: texts that end
    the generation. stop_ids: tokens that end it, such as the end tokens of a model.

    Raises RangeError unless temperature is finite and at least 0, top_k whole and at least 1, top_p and min_p in
    (0, 1], repetition_penalty finite and above 0, the seed in [0, 2⁶⁴), every stop text a text that is not empty, and
    stop_ids whole numbers of at least 0.
    """

    temperature: float = field(
        default=0.8,
        metadata={"help": "Randomness: 0 takes the most probable token, 1 samples the model's probabilities."},
    )
    top_k: int | None = field(default=None, metadata={"help": "Sample from the k most probable tokens only."})
    top_p: float | None = field(
        default=None,
        metadata={"help": "Sample from the fewest most probable tokens only whose probabilities sum to p."},
    )
    min_p: float | None = field(
        default=None,
        metadata={"help": "Sample only tokens whose probability is at least this fraction of the highest."},
    )
    repetition_penalty: float = field(
        default=1.0, metadata={"help": "Make tokens that have occurred less probable, by a factor above 1."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the random numbers; the same seed gives the same text."})
    stop: Sequence[str] = field(
        default=(),
        metadata={"help": r"Stop before this text, where \n is a line end; may be given several times."},
    )
    stop_ids: Sequence[int] = ()

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < math.inf:
            raise RangeError(
                f"Sampling: temperature is a finite number of at least 0, got {self.temperature}. "
                "Give 0 for the most probable token each time, 1 for the model's own probabilities."
            )
        if self.top_k is not None and (not isinstance(self.top_k, int | np.integer) or self.top_k < 1):
            raise RangeError(
                f"Sampling: top_k is a whole number of at least 1, got {self.top_k}. "
                "Leave it out to sample from all tokens."
            )
        for name, value in (("top_p", self.top_p), ("min_p", self.min_p)):
            if value is not None and not 0.0 < value <= 1.0:
                raise RangeError(
                    f"Sampling: {name} lies in (0, 1], got {value}. Leave it out to sample from all tokens."
                )
        if not 0.0 < self.repetition_penalty < math.inf:
            raise RangeError(
                f"Sampling: repetition_penalty is a finite number above 0, got {self.repetition_penalty}. "
                "Give 1 for no penalty, more than 1 to make tokens that were seen rarer."
            )
        if not isinstance(self.seed, int | np.integer) or not 0 <= self.seed < 2**64:
            raise RangeError(f"Sampling: seed lies in [0, 2⁶⁴) and is whole, got {self.seed!r}.")
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise RangeError(
                f"Sampling: stop texts are a sequence of texts that are not empty, got {self.stop!r}. Give [text]."
            )
        if not all(isinstance(token, int | np.integer) and token >= 0 for token in self.stop_ids):
            raise RangeError(f"Sampling: stop_ids are whole numbers of at least 0, got {self.stop_ids!r}.")
        object.__setattr__(self, "seed", int(self.seed))
        object.__setattr__(self, "stop_ids", tuple(map(int, self.stop_ids)))
        object.__setattr__(self, "stop", tuple(self.stop))


def with_options(operation: str, sampling: Sampling, options: Mapping[str, Any]) -> Sampling:
    """Return the sampling with some of its fields replaced: `generate(..., temperature=0.5)`.

    Raises ConfigError for a name that is no field of `Sampling`.
    """
    known = [entry.name for entry in fields(Sampling)]
    for name in options:
        if name not in known:
            meant = {
                "do_sample": " Give temperature=0 for the most probable token each time.",
                "draft": " A draft guesses for one text: use generate or stream.",
            }.get(name, "")
            raise ConfigError(
                f"{operation}: the options of sampling are {', '.join(known)}, got {name}.{meant} "
                "Give them here, or as sampling=Sampling(...)."
            )
    return replace(sampling, **options) if options else sampling


def check_count(operation: str, name: str, value: Any, least: int = 0) -> int:
    """Return a whole number, NumPy's too, as an int. Raises RangeError for anything else, or outside the range."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least:
        raise RangeError(f"{operation}: {name} is a whole number of at least {least}, got {value!r}.")
    if value > MOST_TOKENS:
        raise RangeError(f"{operation}: {name} is at most {MOST_TOKENS:,}, got {value:,}. Give fewer.")
    return int(value)


MODEL_PROBABILITIES = Sampling(temperature=1.0)  # softmax(logits), with nothing cut off


def probabilities(
    logits: Array, sampling: Sampling = MODEL_PROBABILITIES, seen: Sequence[int] = ()
) -> NDArray[np.float64]:
    """Return the distribution that `sample` draws from: (V,) float64, zero where a token was cut off.

    logits: (V,) floats; −∞ means never. seen: the tokens that the repetition penalty applies to.

    Raises RangeError for an id in `seen` outside the vocabulary, ShapeError for other axes, NonFiniteError for NaN, +∞,
    or nothing but −∞.
    """
    scores = _below_zero(logits, sampling.repetition_penalty, seen)
    if sampling.temperature == 0.0:
        return np.eye(1, scores.size, int(scores.argmax()))[0]
    return _mass(scores, sampling)


def _mass(scores: NDArray[np.float64], sampling: Sampling) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):  # a temperature near 0 sends all scores but the highest to −∞, as it should
        mass = np.exp(scores / sampling.temperature)
    mass /= mass.sum()
    top_k, top_p, min_p = sampling.top_k, sampling.top_p, sampling.min_p
    if top_k is not None and top_k < scores.size:
        mass = _only(mass, where_highest(scores, top_k))
    if top_p is not None and top_p < 1.0:  # at 1 all tokens are kept, wherever rounding lets their sum reach 1
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
    """Return the fewest most probable tokens whose mass reaches top_p. A few usually suffice, and sort fast."""
    count = 64
    while True:
        ids = where_highest(scores, count)
        reached = np.cumsum(mass[ids])
        if reached[-1] >= top_p or count >= scores.size:
            return ids[: int(np.searchsorted(reached, top_p)) + 1]
        count *= 8


def where_highest(scores: NDArray[np.float64], count: int) -> list[int]:
    """Return the indices of the `count` highest finite scores, the highest first; of equal scores the first."""
    if count < scores.size:
        lowest = np.partition(scores, scores.size - count)[scores.size - count]
        chosen = np.flatnonzero(scores >= lowest)
    else:
        chosen = np.arange(scores.size)
    chosen = chosen[np.isfinite(scores[chosen])]
    return chosen[np.argsort(-scores[chosen], kind="stable")][:count].tolist()


def sample(
    logits: Array, sampling: Sampling = MODEL_PROBABILITIES, seen: Sequence[int] = (), *, key: RandomKey
) -> tuple[int, float]:
    """Sample one token. Return its id, and the logarithm of the probability that the model itself gives it.

    The log-probability is that of softmax(logits), before temperature, penalty and cuts. Raises as `probabilities`.
    """
    plain = _below_zero(logits)
    penalty = sampling.repetition_penalty
    scores = plain if penalty == 1.0 else _below_zero(logits, penalty, seen)
    token = int(scores.argmax()) if sampling.temperature == 0.0 else _draw(scores, sampling, key)
    return token, float(plain[token] - np.log(np.exp(plain).sum()))


def choose(logits: Array, sampling: Sampling = MODEL_PROBABILITIES, seen: Sequence[int] = (), *, key: RandomKey) -> int:
    """Return the token that `sample` returns, without its log-probability: an exponential of every logit less."""
    given, penalty = _checked(logits), sampling.repetition_penalty
    if sampling.temperature > 0.0:
        return _draw(_below_zero(given, penalty, seen), sampling, key)
    # float32 has the same order as float64, so that it need not be copied
    return _most_probable(given if penalty == 1.0 and given.dtype == np.float32 else _scores(given, penalty, seen))


def _draw(scores: NDArray[np.float64], sampling: Sampling, key: RandomKey) -> int:
    cumulative = np.cumsum(_mass(scores, sampling))
    u = uniform(key, (), np.float64)
    # The first id whose cumulative mass exceeds u: u is below 1, so there is one, and its own mass is not zero.
    return int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))


def _below_zero(logits: Array, penalty: float = 1.0, seen: Sequence[int] = ()) -> NDArray[np.float64]:
    """Return the logits in float64, penalized, then shifted so that the highest is 0: no exponential can overflow."""
    scores = _scores(_checked(logits), penalty, seen)
    scores -= scores[_most_probable(scores)]
    return scores


def _checked(logits: Array) -> Array:
    """Return the logits on the CPU, which are numbers (V,)."""
    given = to_numpy(logits)
    if given.dtype.kind not in "fiu":
        raise DtypeError(f"sample: logits are numbers, got {given.dtype}.")
    if given.ndim != 1 or given.size == 0:
        raise ShapeError(
            f"sample: logits have shape (V,) with V at least 1, got {given.shape}. Give those of one position."
        )
    return given


def _scores(logits: Array, penalty: float, seen: Sequence[int]) -> NDArray[np.float64]:
    """Return a copy of the logits in float64, penalized."""
    scores = logits.astype(np.float64)
    if penalty != 1.0 and len(seen):
        ids = np.unique(np.asarray(seen))
        if ids.dtype.kind not in "iu":
            raise DtypeError(f"sample: seen tokens are integers, got {ids.dtype}.")
        if ids[0] < 0 or ids[-1] >= scores.size:
            raise RangeError(f"sample: seen tokens lie in [0, {scores.size}), got {ids[0]} to {ids[-1]}.")
        scores[ids] = np.where(scores[ids] > 0, scores[ids] / penalty, scores[ids] * penalty)
    return scores


def _most_probable(scores: Array) -> int:
    """Return the id of the highest score, the first of equals, which is finite."""
    token = int(scores.argmax())
    highest = scores[token]
    if not np.isfinite(highest):  # NaN too: where there is one, it counts as the highest
        raise NonFiniteError(
            f"sample: logits are finite, or −∞ for a token that never comes, got {highest} for the highest. "
            "The model has diverged: generate from an earlier checkpoint."
        )
    return token
