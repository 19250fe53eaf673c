"""Share work that needs no gradient, such as a validation: one process computes an item, and all get all results."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from .communicator import Communicator, Single

__all__ = ["shared", "sharing"]

T = TypeVar("T")
R = TypeVar("R")

_current: ContextVar[Communicator | None] = ContextVar("communicator", default=None)


@contextmanager
def sharing(communicator: Communicator) -> Iterator[None]:
    """Let the processes of a communicator share the items of `shared`, within a `with` block that all of them enter."""
    token = _current.set(communicator)
    try:
        yield
    finally:
        _current.reset(token)


def shared(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return [function(item) for item in items]. Within `sharing`, process r computes the items r, r + W, r + 2W, ...

    The results are plain values: numbers, texts, lists.
    """
    communicator = _current.get() or Single()
    rank, size = communicator.rank, communicator.size
    own = [function(item) for number, item in enumerate(items) if number % size == rank]
    every = communicator.gather(own)
    return [every[number % size][number // size] for number in range(sum(map(len, every)))]
