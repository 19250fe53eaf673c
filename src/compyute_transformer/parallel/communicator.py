"""Communicators: how processes that train one model reach each other. One process alone, threads of one process, MPI.

Everything that data parallel training needs is built on four operations, so that another engine is easily added:

    send        an array to a peer
    receive     the array that a peer sends
    exchange    both at once
    gather      every process receives the plain values of all
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from queue import Queue
from typing import Any, TypeVar

import numpy as np

from ..errors import ParallelError, RangeError

__all__ = ["Communicator", "Single", "run_in_threads"]

T = TypeVar("T")


class Communicator(ABC):
    """A process among `size` processes, of which it is number `rank`, counted from 0.

    Every process calls the same operations in the same order.
    """

    rank: int
    size: int
    engine: str  # how messages travel, for people
    neighbors: int = 1  # how many of the processes, this one included, run on this machine

    @abstractmethod
    def exchange(self, array: np.ndarray, like: np.ndarray, peer: int) -> np.ndarray:
        """Send a contiguous array to a peer, and return the array that it sends, of the shape and dtype of `like`."""

    @abstractmethod
    def send(self, array: np.ndarray, peer: int) -> None:
        """Send a contiguous array to a peer, which receives it."""

    @abstractmethod
    def receive(self, like: np.ndarray, peer: int) -> np.ndarray:
        """Return the array that a peer sends, which has the shape and dtype of `like`."""

    @abstractmethod
    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in the order of their ranks. Values are plain: numbers, texts, lists."""

    def from_first(self, value: T) -> T:
        """Return the value of process 0."""
        first: T = self.gather(value if self.rank == 0 else None)[0]
        return first

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.gather(None)

    def agree(self, **facts: Any) -> None:
        """Make sure that all processes have equal facts, such as settings, data and versions.

        Raises:
            ParallelError: they differ. The message names which, and the values of two processes.
        """
        every = self.gather(facts)
        for name, value in every[0].items():
            for rank, others in enumerate(every):
                if others[name] != value:
                    raise ParallelError(
                        f"parallel: all processes must have the same {name}; process 0 has {_short(value)}, process "
                        f"{rank} has {_short(others[name])}. Start all of them with the same program, data and options."
                    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else text[:97] + "..."


class Single(Communicator):
    """One process alone."""

    rank, size, engine = 0, 1, "none"

    def exchange(self, array: np.ndarray, like: np.ndarray, peer: int) -> np.ndarray:
        raise self._no_peer(peer)

    def send(self, array: np.ndarray, peer: int) -> None:
        raise self._no_peer(peer)

    def receive(self, like: np.ndarray, peer: int) -> np.ndarray:
        raise self._no_peer(peer)

    def gather(self, value: Any) -> list[Any]:
        return [value]

    @staticmethod
    def _no_peer(peer: int) -> ParallelError:
        return ParallelError(f"Single: one process alone has no peer, got {peer}. Start several, as with mpiexec -n 2.")


class _Threads(Communicator):
    """A thread that plays one of several processes."""

    engine = "threads"

    def __init__(self, rank: int, queues: dict[tuple[int, int], "Queue[Any]"], size: int, timeout: float) -> None:
        self.rank, self.size, self.queues, self.timeout = rank, size, queues, timeout
        self.neighbors = size

    def exchange(self, array: np.ndarray, like: np.ndarray, peer: int) -> np.ndarray:
        self.send(array, peer)
        return self.receive(like, peer)

    def send(self, array: np.ndarray, peer: int) -> None:
        self.queues[self.rank, peer].put(array.copy())

    def receive(self, like: np.ndarray, peer: int) -> np.ndarray:
        array = self._take(peer)
        if (array.shape, array.dtype) != (like.shape, like.dtype):
            raise ParallelError(f"parallel: process {peer} sent {array.shape} {array.dtype}, not {like.shape}.")
        return array

    def gather(self, value: Any) -> list[Any]:
        for peer in range(self.size):
            self.queues[self.rank, peer].put(value)
        return [self._take(peer) for peer in range(self.size)]

    def _take(self, peer: int) -> Any:
        value = self.queues[peer, self.rank].get(timeout=self.timeout)
        if isinstance(value, _Failed):
            raise ParallelError(f"parallel: process {peer} has failed.")
        return value


class _Failed:
    """What a thread that has failed leaves to those that wait for it."""


def run_in_threads(size: int, function: Callable[[Communicator], T], timeout: float = 60.0) -> list[T]:
    """Call function(communicator) in `size` threads that play as many processes, and return the results by rank.

    For tests and lessons: the messages are those of real processes, and nothing has to be installed. The first error
    of any thread is raised.
    """
    if size < 1:
        raise RangeError(f"run_in_threads: size is at least 1, got {size}.")
    queues: dict[tuple[int, int], Queue[Any]] = {(a, b): Queue() for a in range(size) for b in range(size)}
    results: list[Any] = [None] * size
    errors: list[tuple[int, BaseException]] = []

    def play(rank: int) -> None:
        try:
            results[rank] = function(_Threads(rank, queues, size, timeout))
        except BaseException as error:
            errors.append((rank, error))
            for peer in range(size):
                queues[rank, peer].put(_Failed())

    threads = [threading.Thread(target=play, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0][1]
    return results
