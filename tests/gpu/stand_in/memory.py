"""Allocations of the device, pools, and what is freed."""

import weakref
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

ALIGNMENT = 512  # of every allocation of CuPy's
POISON = 0xFF  # NaN in every float dtype, −1 as a signed integer


class CUDARuntimeError(RuntimeError):
    """What CuPy raises for an error code of the CUDA runtime."""


class OutOfMemoryError(MemoryError):
    """What CuPy raises when a pool or the device has no room."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        bound = f", limit set to: {limit:,} bytes" if limit else ""
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes{bound}).")


class Allocation:
    """What is known of a piece of memory, also after it was freed. raw: its bytes. start: the address of the first."""

    def __init__(self, raw: np.ndarray, start: int, pool: "MemoryPool") -> None:
        self.raw, self.start, self.freed = raw, start, False
        self.pool = weakref.ref(pool)


_starts: list[int] = []  # of the memory that is not freed, in order
_owners: dict[int, Allocation] = {}


def allocation_at(address: int) -> Allocation | None:
    """Return the memory that an address lies in, or None where it was freed, or never there."""
    place = bisect_right(_starts, address) - 1
    found = _owners[_starts[place]] if place >= 0 else None
    return found if found and address < found.start + max(1, found.raw.nbytes) else None


class Memory:
    """The owner of an allocation: when the last array on it is gone, its bytes are poisoned and it counts as free."""

    def __init__(self, size: int, pool: "MemoryPool") -> None:
        whole = np.empty(size + ALIGNMENT, np.uint8)
        address = whole.ctypes.data
        start = -address % ALIGNMENT
        raw = whole[start : start + size]
        raw.fill(POISON)
        self.size, self.ptr = size, address + start
        self.allocation = Allocation(raw, self.ptr, pool)
        _owners[self.ptr] = self.allocation
        insort(_starts, self.ptr)

    def __del__(self) -> None:
        allocation = self.allocation
        allocation.freed = True
        del _starts[bisect_left(_starts, self.ptr)], _owners[self.ptr]
        allocation.raw.fill(POISON)
        pool = allocation.pool()
        if pool is not None:
            pool.used -= self.size


class MemoryPointer:
    """An address in an allocation, as `array.data` is."""

    def __init__(self, mem: Memory, offset: int) -> None:
        self.mem, self.offset = mem, offset

    @property
    def ptr(self) -> int:
        return self.mem.ptr + self.offset

    def __add__(self, offset: int) -> "MemoryPointer":
        return MemoryPointer(self.mem, self.offset + offset)


class MemoryPool:
    """A pool. count: of allocations so far; memory that was freed may be any later one's."""

    def __init__(self) -> None:
        self.used = self.count = self.limit = self.peak = 0

    def malloc(self, size: int) -> MemoryPointer:
        if self.limit and self.used + size > self.limit:
            raise OutOfMemoryError(size, self.used, self.limit)
        self.count += 1
        self.used += size
        self.peak = max(self.peak, self.used)
        return MemoryPointer(Memory(size, self), 0)

    def used_bytes(self) -> int:
        return self.used

    def total_bytes(self) -> int:
        return self.used

    def free_bytes(self) -> int:
        return 0

    def free_all_blocks(self, stream: Any = None) -> None:
        pass

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        self.limit = size or 0

    def get_limit(self) -> int:
        return self.limit


default_pool = MemoryPool()
_allocators: list[Callable[[int], MemoryPointer]] = [default_pool.malloc]


def get_default_memory_pool() -> MemoryPool:
    return default_pool


def alloc(size: int) -> MemoryPointer:
    return _allocators[-1](size)


def get_allocator() -> Callable[[int], MemoryPointer]:
    return _allocators[-1]


def set_allocator(allocator: Callable[[int], MemoryPointer] | None = None) -> None:
    _allocators[-1] = allocator or default_pool.malloc


@contextmanager
def using_allocator(allocator: Callable[[int], MemoryPointer] | None = None) -> Iterator[None]:
    _allocators.append(allocator or default_pool.malloc)
    try:
        yield
    finally:
        _allocators.pop()
