"""The stand-in for CuPy refuses what CuPy refuses, and a captured graph behaves as one on a GPU."""

import copy
import pickle
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from gpu.stand_in import installed
from gpu.stand_in.functions import CONSTANTS, FUNCTIONS
from gpu.stand_in.memory import CUDARuntimeError, OutOfMemoryError
from gpu.stand_in.stream import StaleMemoryError

HOST = np.arange(6.0).reshape(2, 3)


@pytest.fixture
def cupy() -> Iterator[Any]:
    with installed() as module:
        yield module


@pytest.fixture
def a(cupy: Any) -> Any:
    return cupy.asarray(HOST)


def capture(cupy: Any, work: Callable[[], object]) -> Any:
    """Return the graph of the work, which is not done."""
    with cupy.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        try:
            work()
        finally:
            graph = stream.end_capture()
    return graph


@pytest.mark.parametrize(
    "mixture",
    [
        lambda a: a + HOST,
        lambda a: HOST + a,
        lambda a: np.add(a, HOST),
        lambda a: np.concatenate([a, HOST]),
        lambda a: import_module("cupy").where(HOST > 1, a, a),
        lambda a: import_module("cupy").zeros_like(HOST),
        lambda a: a[np.array([0])],
        lambda a: a.__setitem__(0, HOST[0]),
        lambda a: a.__iadd__(HOST),
        lambda a: np.add(HOST, HOST, out=a) + np.add(a, a, out=HOST),
        lambda a: np.asarray(a),
    ],
)
def test_arrays_of_the_host_are_refused(a: Any, mixture: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"Unsupported type|not allowed|ArrayType"):
        mixture(a)


def test_functions_of_numpy_on_arrays_of_the_device_stay_there(cupy: Any, a: Any) -> None:
    for made in (np.exp(a), np.concatenate([a, a]), np.float32(2) * a, a.sum(), a[0, 0], a > 1):
        assert type(made) is cupy.ndarray
    assert np.array_equal(np.exp(a).get(), np.exp(HOST))
    assert np.array_equal((np.float64(2) - a).get(), 2 - HOST)
    assert np.array_equal((a.T @ a).get(), HOST.T @ HOST)


def test_views_share_memory_and_copies_do_not(a: Any) -> None:
    a[:, 1:][0] = 9
    a.reshape(6)[5] = 7
    a.T.copy()[...] = 0
    assert a.tolist() == [[0, 9, 9], [3, 4, 7]]
    assert a[1:].data.ptr == a.data.ptr + 24
    assert a.T.flags.f_contiguous
    assert not a[:, 1:].flags.c_contiguous


def test_memory_is_not_a_number_until_it_is_written(cupy: Any) -> None:
    assert np.isnan(cupy.empty((2, 2)).get()).all()
    assert cupy.empty(3).data.ptr % 256 == 0


def test_copies_and_pickles(a: Any) -> None:
    for other in (copy.copy(a), copy.deepcopy(a), pickle.loads(pickle.dumps(a))):
        assert type(other) is type(a)
        assert other.data.ptr != a.data.ptr
        assert np.array_equal(other.get(), HOST)


def test_a_pool_has_a_limit_and_says_so(cupy: Any) -> None:
    pool = cupy.cuda.MemoryPool()
    pool.set_limit(size=100)
    with (
        cupy.cuda.using_allocator(pool.malloc),
        pytest.raises(MemoryError, match=r"allocating 800 bytes.*limit set to"),
    ):
        cupy.empty(100)
    with cupy.cuda.using_allocator(pool.malloc):
        one = cupy.empty(8)
    assert pool.used_bytes() == 64
    del one
    assert pool.used_bytes() == 0
    assert issubclass(OutOfMemoryError, cupy.cuda.memory.OutOfMemoryError)


# --- capture ---


def test_a_capture_does_nothing_and_a_replay_does_it_on_the_same_memory(cupy: Any, a: Any) -> None:
    results: dict[str, Any] = {}

    def work() -> None:
        results["b"] = b = a * 2
        b += 1
        b[0] = 5
        cupy.copyto(b, -1.0, where=a == 4)

    pool = cupy.cuda.MemoryPool()  # for a * 2 and a == 4 alone: what they leave is nobody else's
    with cupy.cuda.using_allocator(pool.malloc):
        graph = capture(cupy, work)
    assert np.isnan(results["b"].get()).all()
    assert np.array_equal(a.get(), HOST)
    for add in (0, 10):
        a[...] = cupy.asarray(HOST + add)
        graph.launch()
        expected = (HOST + add) * 2 + 1
        expected[0] = 5
        expected[HOST + add == 4] = -1
        assert np.array_equal(results["b"].get(), expected)


@pytest.mark.parametrize(
    "work",
    [
        lambda a: a.get(),
        lambda a: float(a.sum()),
        lambda a: bool((a > 0).all()),
        lambda a: a[a > 0],
        lambda a: (a > 0).nonzero(),
        lambda a: a[[0, 1]],
        lambda a: import_module("cupy").asarray(HOST),
        lambda a: import_module("cupy").cuda.Device().synchronize(),
        lambda a: import_module("cupy").cuda.get_current_stream().synchronize(),
    ],
)
def test_the_host_reads_and_writes_nothing_during_a_capture(cupy: Any, a: Any, work: Callable[[Any], Any]) -> None:
    with pytest.raises(CUDARuntimeError, match="not permitted when stream is capturing"):
        capture(cupy, lambda: work(a))
    work(a)  # afterwards it may


def test_products_by_cublas_cannot_be_captured(cupy: Any, a: Any) -> None:
    with pytest.raises(NotImplementedError, match="cuBLAS"):
        capture(cupy, lambda: a.T @ a)


def test_a_replay_on_memory_that_was_freed_is_refused(cupy: Any) -> None:
    a = cupy.zeros(3)
    graph = capture(cupy, lambda: a.fill(1))
    graph.launch()
    del a
    _ = cupy.zeros(3)  # may be at the same place
    with pytest.raises(StaleMemoryError):
        graph.launch()


def test_memory_of_a_private_pool_may_be_freed_in_a_capture(cupy: Any, a: Any) -> None:
    pool, out = cupy.cuda.MemoryPool(), cupy.zeros((2, 3))

    def work() -> None:
        with cupy.cuda.using_allocator(pool.malloc):
            out[...] = (a + 1) * 2  # a + 1 is freed here

    graph = capture(cupy, work)
    _ = cupy.zeros(3)  # from the other pool
    graph.launch()
    assert np.array_equal(out.get(), (HOST + 1) * 2)
    del pool, work
    with pytest.raises(StaleMemoryError):
        graph.launch()


@pytest.mark.gpu
def test_cupy_has_every_name_of_the_stand_in() -> None:
    cupy = import_module("cupy")
    assert [name for name in (*FUNCTIONS, *CONSTANTS) if not hasattr(cupy, name)] == []
