"""Large arrays come back when their last view is gone, and not before."""

import gc
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from compyute_transformer.cpu import _buffers
from compyute_transformer.cpu._buffers import SMALLEST, empty, empty_like, release

LARGE = (SMALLEST // 4, 2)


@pytest.fixture(autouse=True)
def nothing_free() -> Iterator[None]:
    release()
    yield
    release()


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_is_handed_out_again() -> None:
    first = empty(LARGE)
    where = address(first)
    del first
    assert address(empty(LARGE[::-1])) == where, "the same number of bytes, whatever the shape"


def test_memory_begins_with_a_line_of_the_cache() -> None:
    held = [empty((SMALLEST // 4 + extra, 1)) for extra in (0, 1, 7, 1000)]
    assert [address(array) % 64 for array in held] == [0] * 4
    del held
    assert address(empty(LARGE)) % 64 == 0, "handed out again"


def test_memory_is_not_handed_out_while_a_view_lives() -> None:
    first = empty(LARGE)
    first.fill(7)
    view = first.reshape(-1)[3:5]
    where = address(first)
    del first
    gc.collect()
    second = empty(LARGE)
    second.fill(9)
    assert address(second) != where
    assert (view == 7).all()


def test_arrays_are_what_was_asked_for() -> None:
    for shape, dtype in [((3, 5), np.float32), (LARGE, np.float32), (LARGE, np.float64), ((0, 4), np.float32)]:
        array = empty(shape, dtype)
        assert array.shape == shape
        assert array.dtype == dtype
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert empty_like(array).shape == shape


def test_release_gives_back_what_is_not_lent() -> None:
    used, returned = empty(LARGE), empty(LARGE)
    del returned
    assert release() == used.nbytes
    assert release() == 0


def test_small_arrays_are_numpys_own() -> None:
    empty((3,))
    assert not any(_buffers._free.values())


def test_sizes_that_do_not_come_again_are_not_kept() -> None:
    """Batches of ever other lengths, as pairs of texts are: memory is bounded by what a step needs, not by how many."""
    for length in range(100, 1000, 9):
        arrays = [empty((length * (1 + part), 1024)) for part in range(4)]
        used = sum(array.nbytes for array in arrays)
        del arrays
        assert sum(memory.nbytes for free in _buffers._free.values() for memory in free) <= 2.5 * used


def test_a_little_larger_uses_the_same_memory() -> None:
    used = empty((3000, 1024))  # more than lies free, so that nothing is given back to the system in between
    first = empty((1000, 1024))
    where = address(first)
    del first
    second = empty((1001, 1024))
    assert address(second) == where
    assert second.shape == (1001, 1024)
    assert used.shape == (3000, 1024)


def test_threads_borrow_and_return_at_once() -> None:
    errors: list[Exception] = []

    def work(first: int) -> None:
        held = []
        try:
            for number in range(400):
                held.append(empty(((1 << 16) + 8192 * ((37 * number + first) % 997),)))
                if number % 3 == 0:
                    held.clear()
        except Exception as error:
            errors.append(error)

    gc.collect()
    before, interval = _buffers.bytes_in_use(), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for number in range(5):
            threads = [threading.Thread(target=work, args=(251 * first + number,)) for first in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    gc.collect()
    assert errors == []
    assert _buffers.bytes_in_use() == before
