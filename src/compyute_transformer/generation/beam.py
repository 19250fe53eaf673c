"""Beam search: keep the most probable hypotheses, and extend each by every token.

All open hypotheses have one length, and the beam_size most probable of them make up the beam. A hypothesis that is
extended by END is finished: it leaves the beam, which is narrower by one from then on. The search is over when the beam
is empty, when its hypotheses are as long as allowed, or when no open hypothesis can beat the best finished one. A beam
of one is greedy search. Of the finished hypotheses the one with the highest score is returned:

    score(y) = log p(y | x) / ((5 + |y|) / 6)^α        |y| counts END; α = 0 ranks by probability alone

Sources: Sutskever, Vinyals, Le 2014, "Sequence to sequence learning with neural networks", section 3.2, for the search;
Wu et al. 2016, "Google's neural machine translation system", equation 14, for the length penalty.
"""

import math
from operator import index
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import NonFiniteError, RangeError
from .sampling import where_highest

__all__ = ["Beam", "BeamOptions", "Hypothesis", "length_divisor", "log_softmax"]


def length_divisor(length: int, length_penalty: float) -> float:
    """Return ((5 + |y|) / 6)^α, by which the log-probability of a hypothesis is divided."""
    return ((5.0 + length) / 6.0) ** length_penalty


class BeamOptions(NamedTuple):
    """beam_size: how many hypotheses are kept. length_penalty: α. longest: of a hypothesis, with END. end: its id.

    others: further tokens that end a hypothesis.
    """

    beam_size: int
    length_penalty: float
    longest: int
    end: int
    others: tuple[int, ...] = ()

    def check(self, operation: str = "translate") -> None:
        """Raise RangeError for an option outside its range, and for a count that is not a whole number."""
        for name, value in (("beam_size", self.beam_size), ("max_new_tokens", self.longest)):
            try:
                index(value)
            except TypeError as error:
                raise RangeError(f"{operation}: {name} is a whole number, got {value!r}. Round it.") from error
            if value < 1:
                raise RangeError(f"{operation}: {name} is at least 1, got {value}.")
        if not 0.0 <= self.length_penalty < math.inf:
            raise RangeError(f"{operation}: length_penalty is finite and at least 0, got {self.length_penalty}.")


class Hypothesis(NamedTuple):
    """The tokens written so far, END included once it is written; the log-probability of each, and of all."""

    ids: tuple[int, ...] = ()
    log_probabilities: tuple[float, ...] = ()
    total: float = 0.0

    def score(self, options: BeamOptions) -> float:
        """Return the score by which hypotheses are ranked."""
        return self.total / length_divisor(len(self.ids), options.length_penalty)


class Beam:
    """The search for one translation. open: hypotheses, the most probable first. ended: those that END finished."""

    def __init__(self, options: BeamOptions) -> None:
        self.options = options
        self.open = [Hypothesis()]
        self.ended: list[Hypothesis] = []

    def extend(self, log_p: NDArray[np.float64]) -> list[int]:
        """Extend the open hypotheses by log-probabilities (len(open), V) of the next token, −∞ for impossible tokens.

        Returns the row of log_p that each hypothesis that is open now was made from.
        """
        totals = (np.array([hypothesis.total for hypothesis in self.open])[:, None] + log_p).ravel()
        still_open, parents = [], []
        for candidate in where_highest(totals, self.options.beam_size - len(self.ended)):
            parent, token = divmod(candidate, log_p.shape[1])
            ids, each, _ = self.open[parent]
            longer = Hypothesis((*ids, token), (*each, float(log_p[parent, token])), float(totals[candidate]))
            if token == self.options.end or token in self.options.others:
                self.ended.append(longer)
            else:
                still_open.append(longer)
                parents.append(parent)
        self.open = still_open
        return parents

    @property
    def over(self) -> bool:
        """Return whether no open hypothesis can win any more."""
        if not self.open or len(self.open[0].ids) >= self.options.longest:
            return True
        # log-probabilities only fall, from below zero, and no hypothesis is divided by more than the longest one
        bound = self.open[0].total / length_divisor(self.options.longest, self.options.length_penalty)
        return bool(self.ended) and self.best.score(self.options) >= bound

    @property
    def best(self) -> Hypothesis:
        """Return the finished hypothesis with the best score, or the best open one where none is finished."""
        return max(self.ended or self.open, key=lambda found: found.score(self.options))


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log softmax of rows of logits. Raises NonFiniteError for NaN, +∞, and a row of nothing but −∞."""
    highest = logits.max(-1, keepdims=True)
    if not np.isfinite(highest).all():  # NaN too: it is the maximum of whatever holds one
        raise NonFiniteError(
            "beam search: logits are finite, or −∞ for a token that never comes, got another for the highest. "
            "The model has diverged: use an earlier checkpoint."
        )
    shifted = logits - highest
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
