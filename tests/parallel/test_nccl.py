"""NCCL's communicator on a small stand-in for `cupy.cuda`: arrays of NumPy play those of a GPU, threads the processes.

What only a GPU can show, such as that streams keep their order, is not tested here.
"""

import ctypes
import socket
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from queue import Queue
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pytest
from command_helpers import environment

from compyute_transformer.environment.launcher import find_mpiexec
from compyute_transformer.errors import MissingExtraError
from compyute_transformer.parallel import Communicator, Single, all_reduce, fold, for_device, nccl, run_in_threads
from compyute_transformer.parallel.nccl import NCCL
from compyute_transformer.parallel.tcp import TCP

T = TypeVar("T")


class OnGPU(np.ndarray):
    """An array that says where it lies as CuPy's do."""

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.ctypes.data)


def on_gpu(array: np.ndarray) -> Any:
    return array.copy().view(OnGPU)


def bytes_at(pointer: int, size: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pointer))


class StandIn:
    """The part of `cupy.cuda.nccl` that is used. Within a group, everything is sent before anything is received."""

    NCCL_UINT8, NCCL_FLOAT32, NCCL_FLOAT64, NCCL_SUM = 1, 7, 8, 0  # as in nccl.h

    def __init__(self) -> None:
        self.group = threading.local()
        self.wires: dict[Any, Queue[bytes]] = defaultdict(Queue)
        self.ids = count()

    def get_unique_id(self) -> tuple[int, ...]:
        return (next(self.ids),) * 128

    def groupStart(self) -> None:
        self.group.sends, self.group.receives = [], []

    def groupEnd(self) -> None:
        for wire, data in self.group.sends:
            self.wires[wire].put(data)
        for wire, pointer, size in self.group.receives:
            bytes_at(pointer, size)[:] = np.frombuffer(self.wires[wire].get(timeout=20), np.uint8)

    def NcclCommunicator(self, size: int, unique_id: tuple[int, ...], rank: int) -> Any:
        assert len(unique_id) == 128

        def send(pointer: int, number: int, kind: int, peer: int, stream: int) -> None:
            assert kind == self.NCCL_UINT8
            self.group.sends.append(((unique_id, rank, peer), bytes_at(pointer, number).tobytes()))

        def recv(pointer: int, number: int, kind: int, peer: int, stream: int) -> None:
            assert kind == self.NCCL_UINT8
            self.group.receives.append(((unique_id, peer, rank), pointer, number))

        def all_reduce(pointer: int, into: int, number: int, kind: int, op: int, stream: int) -> None:
            dtype = {self.NCCL_FLOAT32: np.float32, self.NCCL_FLOAT64: np.float64}[kind]
            size_in_bytes = number * np.dtype(dtype).itemsize
            own = bytes_at(pointer, size_in_bytes).tobytes()
            for peer in range(size):
                self.wires[unique_id, rank, peer].put(own)
            parts = [self.wires[unique_id, peer, rank].get(timeout=20) for peer in range(size)]
            total = sum(np.frombuffer(part, dtype) for part in parts)
            bytes_at(into, size_in_bytes)[:] = np.frombuffer(np.asarray(total, dtype).tobytes(), np.uint8)

        return SimpleNamespace(send=send, recv=recv, allReduce=all_reduce)


class Stream:
    ptr = 1

    def __init__(self, non_blocking: bool = False) -> None:
        self.waited: list[Any] = []

    def record(self) -> Any:
        return SimpleNamespace(done=True)

    def wait_event(self, event: Any) -> None:
        self.waited.append(event)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Put the stand-in in the place of CuPy, and return the GPUs that processes take."""
    used: list[int] = []
    cuda = SimpleNamespace(
        Device=lambda number: SimpleNamespace(use=lambda: used.append(number)),
        runtime=SimpleNamespace(getDeviceCount=lambda: 2),
        Stream=Stream,
        get_current_stream=Stream,
    )
    monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", StandIn())  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)  # type: ignore[arg-type]
    monkeypatch.setattr(nccl, "device_of", lambda array: "cuda" if isinstance(array, OnGPU) else "cpu")
    return used


def run(size: int, function: Callable[[Communicator], T]) -> list[T]:
    return run_in_threads(size, lambda host: function(for_device(host, "cuda")))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_sums_on_gpus_are_those_of_the_tree(size: int, taken: list[int]) -> None:
    arrays = [np.random.default_rng(rank).normal(size=50_001).astype(np.float32) for rank in range(size)]

    def process(communicator: Communicator) -> bytes:
        assert isinstance(communicator, NCCL)
        total = on_gpu(arrays[communicator.rank])
        all_reduce(total, communicator)
        assert len(communicator.stream.waited) > 0, "messages wait for the computation"
        return total.tobytes()

    assert set(run(size, process)) == {fold(arrays, np.add).tobytes()}
    assert sorted(taken) == sorted(rank % 2 for rank in range(size))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_plain_sums(dtype: type, taken: list[int]) -> None:
    def process(communicator: Communicator) -> float:
        array = on_gpu(np.full(10, 1.0 + communicator.rank, dtype))
        assert communicator.plain_sum(array)
        assert not communicator.plain_sum(on_gpu(np.zeros(3, np.float16)))
        return float(array[9])

    assert run(3, process) == [6.0, 6.0, 6.0]


def test_values_and_arrays_on_the_cpu_travel_as_the_processes_met(taken: list[int]) -> None:
    def process(communicator: Communicator) -> tuple[list[Any], float]:
        array = np.full(3, float(communicator.rank))
        return communicator.gather(communicator.rank), float(
            communicator.exchange(array, array, 1 - communicator.rank)[0]
        )

    assert run(2, process) == [([0, 1], 1.0), ([0, 1], 0.0)]


def test_the_id_travels_by_sockets(taken: list[int]) -> None:
    """Processes that were told MASTER_ADDR and MASTER_PORT meet by TCP."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    arrays = [np.random.default_rng(rank).normal(size=5_001).astype(np.float32) for rank in range(2)]

    def process(rank: int) -> bytes:
        host = TCP(rank, 2, "127.0.0.1", port, 20.0)
        try:
            communicator = for_device(host, "cuda")
            assert isinstance(communicator, NCCL)
            total = on_gpu(arrays[rank])
            all_reduce(total, communicator)
            return total.tobytes()
        finally:
            host.close()

    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(process, range(2))) == {fold(arrays, np.add).tobytes()}
    assert sorted(taken) == [0, 1]


BY_MPI = """
import sys
from types import SimpleNamespace as Names

made, asked = [], []
nccl = Names(
    get_unique_id=lambda: asked.append(1) or tuple(range(-64, 64)),  # C's signed characters, as CuPy returns them
    NcclCommunicator=lambda size, unique_id, rank: made.append((size, unique_id, rank)),
)
taken = []
cuda = Names(
    Device=lambda number: Names(use=lambda: taken.append(number)),
    runtime=Names(getDeviceCount=lambda: 2),
    Stream=lambda non_blocking: None,
)
sys.modules |= {"cupy.cuda.nccl": nccl, "cupy.cuda": cuda}
from compyute_transformer.parallel import for_device, world

communicator = for_device(world(20.0), "cuda")
rank = communicator.rank
assert made == [(2, tuple(range(-64, 64)), rank)], made
assert taken == [rank]
assert len(asked) == 1 - rank, 'process 0 alone makes the id'
print(f"{communicator.host.engine} {communicator.engine} {rank}\\n", end="", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="MPICH has no package for Windows")
def test_the_id_travels_by_mpi() -> None:
    launcher = find_mpiexec()
    assert launcher is not None, "pip install 'compyute-transformer[parallel]'"
    command = [launcher, "-n", "2", sys.executable, "-c", BY_MPI]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")[:2]) == ["MPI NCCL 0", "MPI NCCL 1"]


def test_a_world_of_one(taken: list[int]) -> None:
    """As for one GPU: the id goes nowhere, and there is nobody to exchange with."""
    communicator = NCCL(Single())
    array = on_gpu(np.arange(5.0))
    all_reduce(array, communicator)
    assert communicator.plain_sum(array)
    assert np.array_equal(array, np.arange(5.0))
    assert for_device(communicator, "cuda") is communicator
    assert isinstance(for_device(Single(), "cuda"), Single)


def test_without_cupy_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", None)  # type: ignore[arg-type]
    with pytest.raises(MissingExtraError, match="NCCL, which comes with CuPy"):
        run_in_threads(2, lambda host: for_device(host, "cuda"))
