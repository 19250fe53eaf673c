"""Beam search: the most probable beginnings of an answer are kept, and each is lengthened by every token.

Of all beginnings, all of one length, the beam_size most probable make up the beam. One that is lengthened by END is an
answer: it leaves the beam, which is narrower by one from then on. The search is over when the beam is empty, when its
beginnings are as long as they may be, or when no beginning can beat the best answer any more. A beam of one is greedy
search. Of the answers the one with the best score wins:

    score(y) = log p(y | x) / ((5 + |y|) / 6)^α        |y| counts END; α = 0 ranks by probability alone

Sources: Sutskever, Vinyals, Le 2014, "Sequence to sequence learning with neural networks", section 3.2, for the search;
Wu et al. 2016, "Google's neural machine translation system", equation 14, for the length penalty.
"""

import math
from operator import index
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import RangeError
from .sampling import where_highest

__all__ = ["Beam", "BeamOptions", "Hypothesis", "length_divisor"]


def length_divisor(length: int, length_penalty: float) -> float:
    """((5 + |y|) / 6)^α: what the log-probability of an answer is divided by."""
    return ((5.0 + length) / 6.0) ** length_penalty


class BeamOptions(NamedTuple):
    """beam_size: how many beginnings are kept. length_penalty: α. longest: of answers, END included. end: its id."""

    beam_size: int
    length_penalty: float
    longest: int
    end: int

    def check(self) -> None:
        """Raise RangeError for an option outside its range, and for a number of tokens or answers that is not whole."""
        for name, value in (("beam_size", self.beam_size), ("max_new_tokens", self.longest)):
            try:
                index(value)
            except TypeError as error:
                raise RangeError(f"translate: {name} is a whole number, got {value!r}. Round it.") from error
            if value < 1:
                raise RangeError(f"translate: {name} is at least 1, got {value}.")
        if not 0.0 <= self.length_penalty < math.inf:
            raise RangeError(f"translate: length_penalty is finite and at least 0, got {self.length_penalty}.")


class Hypothesis(NamedTuple):
    """Tokens written so far, END among them once it has come; the log-probability of each, and of all."""

    ids: tuple[int, ...] = ()
    log_probabilities: tuple[float, ...] = ()
    total: float = 0.0

    def score(self, options: BeamOptions) -> float:
        """By which answers are ranked."""
        return self.total / length_divisor(len(self.ids), options.length_penalty)


class Beam:
    """The search for one answer. open: beginnings, the most probable first. ended: answers, in the order they came."""

    def __init__(self, options: BeamOptions) -> None:
        self.options = options
        self.open = [Hypothesis()]
        self.ended: list[Hypothesis] = []

    def extend(self, log_p: NDArray[np.float64]) -> list[int]:
        """Lengthen what is open by log-probabilities (len(open), V) of the next token, −∞ for one that never comes.

        Returns which row of log_p each beginning that is open now was made from.
        """
        totals = (np.array([beginning.total for beginning in self.open])[:, None] + log_p).ravel()
        still_open, parents = [], []
        for candidate in where_highest(totals, self.options.beam_size - len(self.ended)):
            parent, token = divmod(candidate, log_p.shape[1])
            ids, each, _ = self.open[parent]
            longer = Hypothesis((*ids, token), (*each, float(log_p[parent, token])), float(totals[candidate]))
            if token == self.options.end:
                self.ended.append(longer)
            else:
                still_open.append(longer)
                parents.append(parent)
        self.open = still_open
        return parents

    @property
    def over(self) -> bool:
        """Whether nothing that is open can win any more."""
        if not self.open or len(self.open[0].ids) >= self.options.longest:
            return True
        # log-probabilities only fall, from below zero, and no answer is divided by more than the longest is
        hope = self.open[0].total / length_divisor(self.options.longest, self.options.length_penalty)
        return bool(self.ended) and self.best.score(self.options) >= hope

    @property
    def best(self) -> Hypothesis:
        """The answer with the best score, the first of equals; the best beginning where there is no answer."""
        return max(self.ended or self.open, key=lambda found: found.score(self.options))
