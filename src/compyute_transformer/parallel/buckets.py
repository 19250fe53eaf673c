"""Buckets: the flat gradient is summed over the processes in parts, the first of them while the backward still runs.

A backward finishes the gradients of the last layers first. As soon as all gradients of a bucket are there, its sum
begins, and moves on whenever the next gradient arrives:

    backward     layer 6   layer 5   layer 4   layer 3 ...
    bucket 0               ─────────sum────────
    bucket 1                         ─────────sum────────

The sum of a bucket is a reduce-scatter: each process ends with the sum of its own part of the bucket. An all-gather
then gives all parts to all: of the gradient, or, where the optimizer is sharded, of the new weights.

For W = 2^k processes each exchanges halves with its neighbor, quarters with the one after, and so on (vector halving,
distance doubling), and collects the parts on the way back: 2 (W − 1)/W times the array is sent, the least there is, in
2 log₂ W messages. For other W each process exchanges with every other one: as many bytes, in 2 (W − 1) messages.

Source: Thakur, Rabenseifner, Gropp 2005, "Optimization of collective communication operations in MPICH", 4.5. They
halve the distance; doubling it keeps the order of the tree. Li et al. 2020, "PyTorch Distributed", has the buckets.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from operator import add
from typing import Any, NamedTuple

from ..arrays import Array, array_module
from ..optim.clip import PIECE
from .communicator import Communicator, Message, poll
from .tree import fold

__all__ = ["BUCKET", "Buckets", "Exchange", "all_reduce", "exchanges"]

BUCKET = 1 << 20  # elements, more or less


class Exchange(NamedTuple):
    """One exchange of a reduce-scatter. mine: (start, stop) of what is summed here; given: of what the peer sums."""

    peer: int
    mine: tuple[int, int]
    given: tuple[int, int]


def exchanges(start: int, stop: int, rank: int, size: int) -> list[Exchange]:
    """Return the exchanges of a process for one bucket. Parts end where PIECE divides the index; they may be empty."""
    if size & (size - 1):
        edges = _edges(start, stop, size)
        peers = ((turn - rank) % size for turn in range(size))  # whose peer is this process, in the same turn
        return [Exchange(peer, edges[rank], edges[peer]) for peer in peers if peer != rank]
    found, distance = [], 1
    while distance < size:
        low, high = _edges(start, stop, 2)
        mine, given = (low, high) if rank & distance == 0 else (high, low)
        found.append(Exchange(rank ^ distance, mine, given))
        (start, stop), distance = mine, 2 * distance
    return found


def _edges(start: int, stop: int, parts: int) -> list[tuple[int, int]]:
    """Return the ends of nearly equal parts."""
    cuts = [start + round((stop - start) * i / parts / PIECE) * PIECE for i in range(1, parts)]
    return list(pairwise([start, *(min(cut, stop) for cut in cuts), stop]))


class Buckets:
    """The buckets of a flat array of some size, in the order of the backward, and the messages that sum them.

    matrices: the size of the matrices, which come first. Vectors are in one bucket at the end, since every layer has
    some of them. ranges: (start, stop) of each bucket. slices: the parts that this process sums, rising.
    """

    def __init__(self, size: int, matrices: int, communicator: Communicator) -> None:
        self.communicator = communicator
        middle = matrices // PIECE * PIECE if matrices > BUCKET else 0
        cut = _edges(0, middle, max(1, round(middle / max(BUCKET, PIECE * communicator.size)))) if middle else []
        self.ranges = [*reversed(cut), (middle, size)]
        self.plans = [self.plan_of(communicator.rank, index) for index in range(len(self.ranges))]
        self.slices = self.slices_of(communicator.rank)
        self._members: list[set[int]] | None = None
        self._running: list[Iterator[Message]] = []
        self._waiting: list[Message | None] = []  # of each bucket that was launched, the latest message
        self._begun: list[int] = []  # how many messages of each bucket were begun

    def plan_of(self, rank: int, index: int) -> list[Exchange]:
        """Return the exchanges of a process for one bucket."""
        return exchanges(*self.ranges[index], rank, self.communicator.size)

    def slices_of(self, rank: int) -> list[tuple[int, int]]:
        """Return the parts that a process sums, rising; neighbors are joined, and empty ones left out."""
        plans = (self.plan_of(rank, index) for index in range(len(self.ranges)))
        last = [plan[-1].mine if plan else range_ for plan, range_ in zip(plans, self.ranges, strict=True)]
        joined: list[tuple[int, int]] = []
        for start, stop in sorted(part for part in last if part[0] < part[1]):
            if joined and joined[-1][1] == start:
                joined[-1] = joined[-1][0], stop
            else:
                joined.append((start, stop))
        return joined

    def members_of(self, parameters: Sequence[Any]) -> list[set[int]]:
        """Return the numbers of the parameters of which some elements lie in each bucket."""
        if self._members is None:
            ends = [(p.place.start, p.place.start + p.size) for p in parameters]
            self._members = [
                {number for number, (low, high) in enumerate(ends) if low < stop and start < high}
                for start, stop in self.ranges
            ]
        return self._members

    # --- reduce-scatter ---

    def launch(self, array: Array) -> None:
        """Begin the sum of the next bucket of an array, in place. Raises ParallelError as `Message.wait` does."""
        index = len(self._running)
        sums = self._halves if self.communicator.size & (self.communicator.size - 1) == 0 else self._all_parts
        self._running.append(sums(array, self.plans[index]))
        self._waiting.append(None)
        self._begun.append(0)
        self._advance(index)

    def poll(self) -> None:
        """Move the sums on that were launched, without waiting.

        A bucket begins its next message only after the bucket before has, so that two processes begin theirs in the
        same order.
        """
        for index, message in enumerate(self._waiting):
            if message is not None and message.arrived() and self._is_due(index):
                self._advance(index)

    def finish(self) -> None:
        """Wait for the sums of all buckets, which were launched."""
        while any(message is not None for message in self._waiting):
            poll(self._has_moved, None, self.communicator.rank, self.communicator.timeout)
        self.clear()

    def _has_moved(self) -> bool:
        before = sum(self._begun)
        self.poll()
        return sum(self._begun) > before

    def clear(self) -> None:
        """Forget what was launched, as after an error."""
        self._running, self._waiting, self._begun = [], [], []

    def _is_due(self, index: int) -> bool:
        return index == 0 or self._waiting[index - 1] is None or self._begun[index - 1] > self._begun[index]

    def _advance(self, index: int) -> None:
        self._waiting[index] = next(self._running[index], None)
        self._begun[index] += 1

    def _halves(self, array: Array, plan: list[Exchange]) -> Iterator[Message]:
        """Sum halves, quarters, ...: low + high and high + low have the same bits."""
        xp = array_module(array)
        for peer, mine, given in plan:
            part = array[slice(*mine)]
            received = xp.empty_like(part)
            yield self.communicator.begin(array[slice(*given)], received, peer)
            part += received

    def _all_parts(self, array: Array, plan: list[Exchange]) -> Iterator[Message]:
        """Sum the own part as it comes from every process, in the order of the tree."""
        part = array[slice(*plan[0].mine)]
        parts = {self.communicator.rank: part}
        for peer, _, given in plan:
            parts[peer] = array_module(array).empty_like(part)
            yield self.communicator.begin(array[slice(*given)], parts[peer], peer)
        part[...] = fold([parts[rank] for rank in range(self.communicator.size)], add)

    # --- all-gather ---

    def gather(self, array: Array) -> None:
        """Give the own slices of an array to all processes, and receive theirs, in place."""
        for turn in zip(*(reversed(plan) for plan in self.plans), strict=True):
            messages = [
                self.communicator.begin(array[slice(*mine)], array[slice(*given)], peer) for peer, mine, given in turn
            ]
            for message in messages:
                message.wait()

    def whole(self, array: Array) -> Array:
        """Return an array of which every process computed some elements, and left zeros in the others: adds exactly."""
        all_reduce(array, self.communicator)
        return array


def all_reduce(array: Array, communicator: Communicator) -> None:
    """Replace an array, in place, by the sum over all processes in the order of the tree. Contiguous, of one axis."""
    buckets = Buckets(len(array), 0, communicator)
    buckets.launch(array)
    buckets.finish()
    buckets.gather(array)
