"""Sums in a fixed tree: floating-point addition is not associative, so the order is part of the result.

The gradients of S leaves are added in pairs, the sums of pairs in pairs, and so on, whoever computed them:

    leaf       0   1   2   3   4   5   6   7
               +───+   +───+   +───+   +───+          one process adds whatever both sides of which it has
                 +───────+       +───────+            two processes exchange the rest
                     +───────────────+

A process holds S/W consecutive leaves, a power of two, which is a whole subtree. So 1, 2, 4 and 8 processes add the
same numbers in the same order, and the sum has the same bits. The tree over a number of leaves that is no power of two
has absent leaves at its end, which add nothing.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from .communicator import Communicator

__all__ = ["TreeSum", "all_reduce", "fold"]

T = TypeVar("T")


def fold(values: Sequence[T], add: Callable[[T, T], T]) -> T:
    """Return the sum of at least one value in the order of the tree."""
    level = list(values)
    while len(level) > 1:
        pairs = [add(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(level) - len(level) % 2 :]
    return level[0]


class TreeSum:
    """The sum of arrays that come one after the other, in the order of the tree, in about log2(S) arrays of memory."""

    def __init__(self) -> None:
        self._partial: list[tuple[int, np.ndarray]] = []  # (level, sum), the levels falling
        self._spare: list[np.ndarray] = []

    def clear(self) -> None:
        """Forget what came, as after an error in the middle of a sum."""
        self._spare += [array for _, array in self._partial]
        self._partial = []

    def add(self, array: np.ndarray) -> None:
        """Take in the next array, whose memory stays the caller's."""
        new = self._spare.pop() if self._spare else np.empty_like(array)
        new[...] = array
        level = 0
        while self._partial and self._partial[-1][0] == level:
            new, level = self._merge(new), level + 1
        self._partial.append((level, new))

    def take(self) -> np.ndarray:
        """Return the sum of all that came, and begin anew. The array is valid until the next `add`."""
        _, total = self._partial.pop()
        while self._partial:
            total = self._merge(total)
        self._spare.append(total)
        return total

    def _merge(self, right: np.ndarray) -> np.ndarray:
        _, left = self._partial.pop()
        left += right
        self._spare.append(right)
        return left


def all_reduce(array: np.ndarray, communicator: Communicator) -> None:
    """Replace an array, in place, by the sum over all processes in the order of the tree. Contiguous, of one axis.

    For W = 2^k processes each exchanges halves with its neighbor, quarters with the one after, and so on (vector
    halving, distance doubling), and then collects the sums on the way back: 2 (W − 1)/W times the array is sent. For
    other W the sums travel to process 0 and back.

    Source: Thakur, Rabenseifner, Gropp 2005, "Optimization of collective communication operations in MPICH", 4.5. They
    halve the distance; doubling it keeps the order of the tree.
    """
    if communicator.size == 1:
        return
    if communicator.size & (communicator.size - 1):
        _reduce_and_broadcast(array, communicator)
        return
    steps: list[tuple[int, np.ndarray, np.ndarray]] = []  # peer, the half that is summed here, the half summed there
    part, distance = array, 1
    while distance < communicator.size:
        peer, middle = communicator.rank ^ distance, len(part) // 2
        halves = part[:middle], part[middle:]
        mine, given = halves if communicator.rank < peer else halves[::-1]
        mine += communicator.exchange(given, mine, peer)  # low + high and high + low have the same bits
        steps.append((peer, mine, given))
        part, distance = mine, 2 * distance
    for peer, mine, given in reversed(steps):
        given[...] = communicator.exchange(mine, given, peer)


def _reduce_and_broadcast(array: np.ndarray, communicator: Communicator) -> None:
    rank, size = communicator.rank, communicator.size
    distances = [1 << k for k in range((size - 1).bit_length())]
    for distance in distances:
        if rank % (2 * distance) == distance:
            communicator.send(array, rank - distance)
            break
        if rank + distance < size:
            array += communicator.receive(array, rank + distance)
    for distance in reversed(distances):
        if rank % (2 * distance) == 0 and rank + distance < size:
            communicator.send(array, rank + distance)
        elif rank % (2 * distance) == distance:
            array[...] = communicator.receive(array, rank - distance)
