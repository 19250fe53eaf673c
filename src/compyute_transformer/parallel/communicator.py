"""Communicators: how processes that train one model reach each other. One process alone, threads of one process, MPI.

Everything that data parallel training needs is built on two operations, so that another engine is easily added:

    begin       begin to send an array to a peer, to receive one from it, or both at once
    gather      every process receives the plain values of all
"""

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from queue import Empty, Queue
from typing import Any, TypeVar

from ..arrays import Array, array_module
from ..errors import ParallelError, RangeError

__all__ = ["Communicator", "Message", "Single", "hangs", "poll", "run_in_threads"]

T = TypeVar("T")

POLL = 5e-5  # seconds between two looks at a message that has not come


class Message(ABC):
    """An array on its way, both ways or one. Until it has arrived, both arrays are left alone by the caller."""

    @abstractmethod
    def arrived(self) -> bool:
        """Return whether it has arrived, without waiting. Asking moves it on: most engines do nothing in between."""

    @abstractmethod
    def wait(self) -> None:
        """Wait until it has arrived. Raises ParallelError for a peer that fails or does not answer in time."""


class Communicator(ABC):
    """A process among `size` processes, of which it is number `rank`, counted from 0.

    Every process calls the same operations in the same order.
    """

    rank: int
    size: int
    engine: str  # how messages travel, for people
    neighbors: int = 1  # how many of the processes, this one included, run on this machine
    timeout: float = 600.0  # seconds after which a peer that does not answer is given up

    @abstractmethod
    def begin(self, array: Array | None, into: Array | None, peer: int) -> Message:
        """Begin to send a contiguous array to a peer, and to receive its array into another one; None for neither.

        Two processes begin the messages between them in the same order.
        """

    @abstractmethod
    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in the order of their ranks. Values are plain: numbers, texts, lists."""

    def exchange(self, array: Array, like: Array, peer: int) -> Array:
        """Send a contiguous array to a peer, and return the array that it sends, of the shape and dtype of `like`."""
        received: Array = array_module(like).empty_like(like)
        self.begin(array, received, peer).wait()
        return received

    def send(self, array: Array, peer: int) -> None:
        """Send a contiguous array to a peer, which receives it."""
        self.begin(array, None, peer).wait()

    def receive(self, like: Array, peer: int) -> Array:
        """Return the array that a peer sends, which has the shape and dtype of `like`."""
        received: Array = array_module(like).empty_like(like)
        self.begin(None, received, peer).wait()
        return received

    def plain_sum(self, array: Array) -> bool:
        """Replace an array by the sum over all processes, in any order; return False if the engine has no such sum."""
        return False

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

    def begin(self, array: Array | None, into: Array | None, peer: int) -> Message:
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
        self._due: dict[int, deque[_InThreads]] = {peer: deque() for peer in range(size)}

    def begin(self, array: Array | None, into: Array | None, peer: int) -> Message:
        if array is not None:
            self.queues[self.rank, peer].put(array.copy())
        message = _InThreads(self, into, peer)
        if into is not None:
            self._due[peer].append(message)
        return message

    def gather(self, value: Any) -> list[Any]:
        for peer in range(self.size):
            self.queues[self.rank, peer].put(value)
        return [self.take(peer, self.timeout) for peer in range(self.size)]

    def take(self, peer: int, timeout: float) -> Any:
        queue = self.queues[peer, self.rank]
        value = queue.get(timeout=timeout) if timeout else queue.get_nowait()
        if isinstance(value, _Failed):
            raise ParallelError(f"parallel: process {peer} has failed.")
        return value

    def receive_next(self, peer: int, timeout: float) -> None:
        """Receive what is due from a peer, in the order in which it was begun. Raises Empty if nothing comes."""
        into, array = self._due[peer][0].into, self.take(peer, timeout)
        if into is None or (array.shape, array.dtype) != (into.shape, into.dtype):
            raise ParallelError(
                f"parallel: process {peer} sent {array.shape} {array.dtype}, which is not what was due."
            )
        into[...] = array
        self._due[peer].popleft().into = None


class _InThreads(Message):
    """A message between threads. into: the array to be received; None when it has come."""

    def __init__(self, owner: _Threads, into: Array | None, peer: int) -> None:
        self.owner, self.into, self.peer = owner, into, peer

    def arrived(self) -> bool:
        try:
            while self.into is not None:
                self.owner.receive_next(self.peer, 0.0)
        except Empty:
            return False
        return True

    def wait(self) -> None:
        try:
            while self.into is not None:
                self.owner.receive_next(self.peer, self.owner.timeout)
        except Empty:
            raise hangs(self.peer, self.owner.rank, self.owner.timeout) from None


def hangs(peer: int | None, rank: int, timeout: float) -> ParallelError:
    """Return the error for a peer that does not answer."""
    who = "another process" if peer is None else f"process {peer}"
    return ParallelError(
        f"parallel: {who} has not answered process {rank} for {timeout:g} s. It hangs or is gone: end all processes, "
        "and continue the run with compyute train --resume."
    )


def poll(arrived: Callable[[], bool], peer: int | None, rank: int, timeout: float) -> None:
    """Ask again and again whether something has arrived. Raises ParallelError when the time is over."""
    began = time.monotonic()
    while not arrived():
        waited = time.monotonic() - began
        if waited > timeout:
            raise hangs(peer, rank, timeout)
        if waited > 20 * POLL:
            time.sleep(POLL)


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
