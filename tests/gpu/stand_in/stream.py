"""Launches run at once, or are recorded while their stream is captured; a graph runs them again on the same memory."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .memory import Allocation, CUDARuntimeError, MemoryPool


class StaleMemoryError(RuntimeError):
    """A replay would use memory that was freed since the capture and may hold something else by now."""


class Launch(NamedTuple):
    """name: of what is launched. run: does the work. allocations: the memory it reads and writes."""

    name: str
    run: Callable[[], object]
    allocations: tuple[Allocation, ...]


class Graph:
    """The launches of a capture, in order."""

    def __init__(self, launches: list[Launch]) -> None:
        self.launches = launches
        pools = {pool for one in launches for each in one.allocations if (pool := each.pool()) is not None}
        self._counts = weakref.WeakKeyDictionary[MemoryPool, int]({pool: pool.count for pool in pools})

    def launch(self, stream: Any = None) -> None:
        for one in self.launches:
            for allocation in one.allocations:
                pool = allocation.pool()
                if allocation.freed and (pool is None or pool.count > self._counts.get(pool, -1)):
                    raise StaleMemoryError(f"{one.name}: the graph uses memory that was freed since its capture")
            one.run()

    def upload(self, stream: Any = None) -> None:
        pass


class Stream:
    """A stream of the device. Work on it is done when it is asked for, so there is nothing to wait for."""

    null: "Stream"

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None):
        self.ptr = 0 if null else id(self)
        self._recorded: list[Launch] | None = None

    def __enter__(self) -> "Stream":
        _current.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _current.pop()

    def use(self) -> "Stream":
        _current[-1] = self
        return self

    def begin_capture(self, mode: Any = None) -> None:
        if self is Stream.null:
            raise RuntimeError("cannot capture the default stream")
        if self._recorded is not None:
            raise CUDARuntimeError("cudaErrorIllegalState: the operation cannot be performed in the present state")
        self._recorded = []

    def end_capture(self) -> Graph:
        if self._recorded is None:
            raise RuntimeError("cannot end capture on a stream that is not being captured")
        recorded, self._recorded = self._recorded, None
        return Graph(recorded)

    def is_capturing(self) -> bool:
        return self._recorded is not None

    def synchronize(self) -> None:
        if self._recorded is not None:
            refuse_in_capture("Stream.synchronize")

    def record(self, event: "Event | None" = None) -> "Event":
        return event or Event()

    def wait_event(self, event: "Event") -> None:
        pass


class Event:
    """A point in the work of a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.done = True
        self.seconds = 0.0

    def record(self, stream: Stream | None = None) -> None:
        from time import perf_counter

        self.seconds = perf_counter()

    def synchronize(self) -> None:
        refuse_in_capture("Event.synchronize")


def get_elapsed_time(start: Event, end: Event) -> float:
    return 1e3 * (end.seconds - start.seconds)


Stream.null = Stream(null=True)
_current: list[Stream] = [Stream.null]


def get_current_stream(device_id: int = -1) -> Stream:
    return _current[-1]


def capturing() -> bool:
    return _current[-1]._recorded is not None


def refuse_in_capture(what: str) -> None:
    """Raise for what waits for the device, or copies from or to the host, while the current stream is captured."""
    if capturing():
        raise CUDARuntimeError(
            f"cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing ({what})"
        )


def launch(name: str, run: Callable[[], object], allocations: Iterable[Allocation]) -> None:
    """Do the work now, or record it where the current stream is captured."""
    recorded = _current[-1]._recorded
    if recorded is None:
        run()
    else:
        recorded.append(Launch(name, run, tuple(allocations)))
