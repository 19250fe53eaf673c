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

from ..arrays import Array, array_module

__all__ = ["TreeSum", "fold"]

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
        self._partial: list[tuple[int, Array]] = []  # (level, sum), the levels falling
        self._spare: list[Array] = []

    def clear(self) -> None:
        """Forget what came, as after an error in the middle of a sum."""
        self._spare += [array for _, array in self._partial]
        self._partial = []

    def add(self, array: Array) -> None:
        """Take in the next array, whose memory stays the caller's."""
        new = self._spare.pop() if self._spare else array_module(array).empty_like(array)
        new[...] = array
        level = 0
        while self._partial and self._partial[-1][0] == level:
            new, level = self._merge(new), level + 1
        self._partial.append((level, new))

    def take(self) -> Array:
        """Return the sum of all that came, and begin anew. The array is valid until the next `add`."""
        _, total = self._partial.pop()
        while self._partial:
            total = self._merge(total)
        self._spare.append(total)
        return total

    def add_to(self, last: Array, start: int, stop: int) -> None:
        """Replace last[start:stop], of the last array of the sum, by the sum of all arrays; what came stays."""
        for _, partial in reversed(self._partial):
            last[start:stop] += partial[start:stop]  # partial + last and last + partial have the same bits

    def _merge(self, right: Array) -> Array:
        _, left = self._partial.pop()
        left += right
        self._spare.append(right)
        return left
