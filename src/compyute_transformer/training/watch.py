"""Watch: how far a long loop has come, for a bar on a terminal.

A validation of a long text takes minutes. What evaluates passes its batches through `watched`; whoever has a bar calls
it within `watching`. Nobody else has to know.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias, TypeVar

__all__ = ["Watcher", "watched", "watching"]

T = TypeVar("T")
Watcher: TypeAlias = Callable[[int, int], None]  # is called with how many are done, and of how many

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watching(watcher: Watcher | None) -> Iterator[None]:
    """Let a function be told of the loops within a `with` block; None tells nobody."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def watched(items: Iterable[T], total: int) -> Iterator[T]:
    """Yield the items of a loop. The watcher is told after each. total: how many there will be."""
    watcher = _watcher.get()
    for done, item in enumerate(items, 1):
        yield item
        if watcher is not None:
            watcher(min(done, total), total)
