"""NCCL: one process for each GPU, through the communicator of `cupy.cuda.nccl`.

Processes meet by another communicator, MPI or sockets: process 0 makes a unique id, and all others get it from there.
Values that are no arrays, and arrays that are not on a GPU, travel that way also later. An exchange is a send and a
receive in one group, on a stream beside that of the computation, and has arrived when an event behind it is done.
"""

from importlib import import_module
from typing import Any

from ..arrays import Array, device_of
from ..errors import MissingExtraError
from .communicator import Communicator, Message, poll

__all__ = ["NCCL"]


class NCCL(Communicator):
    """A process of a job in which each has a GPU.

    host: the communicator by which the processes meet. Process r takes GPU r mod (number of GPUs of its machine), which
    must be before it makes an array there.

    Raises:
        MissingExtraError: CuPy is not installed, or was built without NCCL.
    """

    engine = "NCCL"

    def __init__(self, host: Communicator) -> None:
        try:
            self.nccl, self.cuda = import_module("cupy.cuda.nccl"), import_module("cupy.cuda")
        except ImportError as error:
            raise MissingExtraError(
                "parallel: several GPUs reach each other by NCCL, which comes with CuPy: pip install "
                "'compyute-transformer[gpu]'"
            ) from error
        self.host, self.rank, self.size, self.timeout = host, host.rank, host.size, host.timeout
        self.neighbors = host.neighbors
        self.cuda.Device(self.rank % max(1, self.cuda.runtime.getDeviceCount())).use()
        unique_id = host.from_first(list(self.nccl.get_unique_id()) if self.rank == 0 else [])
        self.comm = self.nccl.NcclCommunicator(self.size, tuple(unique_id), self.rank)
        self.stream = self.cuda.Stream(non_blocking=True)

    def begin(self, array: Array | None, into: Array | None, peer: int) -> Message:
        if device_of(into if array is None else array) == "cpu":
            return self.host.begin(array, into, peer)
        self._after_computation()
        self.nccl.groupStart()
        if array is not None and array.size:
            self.comm.send(_pointer(array), array.nbytes, self.nccl.NCCL_UINT8, peer, self.stream.ptr)
        if into is not None and into.size:
            self.comm.recv(_pointer(into), into.nbytes, self.nccl.NCCL_UINT8, peer, self.stream.ptr)
        self.nccl.groupEnd()
        return _OnStream(self, (array, into), peer)

    def gather(self, value: Any) -> list[Any]:
        return self.host.gather(value)

    def plain_sum(self, array: Array) -> bool:
        """Add by NCCL's own allReduce, whose order of sums depends on the number of GPUs and on how they are joined."""
        if device_of(array) == "cpu":
            return self.host.plain_sum(array)
        if array.dtype.name not in ("float32", "float64"):
            return False
        kind = self.nccl.NCCL_FLOAT32 if array.dtype.name == "float32" else self.nccl.NCCL_FLOAT64
        self._after_computation()
        self.comm.allReduce(_pointer(array), _pointer(array), array.size, kind, self.nccl.NCCL_SUM, self.stream.ptr)
        _OnStream(self, (array, None), None).wait()
        return True

    def _after_computation(self) -> None:
        """Let the stream of messages wait for what the current stream still computes, which is what will be sent."""
        self.stream.wait_event(self.cuda.get_current_stream().record())


class _OnStream(Message):
    """What was put on the stream of messages. arrays: kept until they have arrived."""

    def __init__(self, owner: NCCL, arrays: tuple[Array | None, Array | None], peer: int | None) -> None:
        self.owner, self.arrays, self.peer = owner, arrays, peer
        self.event = owner.stream.record()

    def arrived(self) -> bool:
        return bool(self.event.done)

    def wait(self) -> None:
        poll(self.arrived, self.peer, self.owner.rank, self.owner.timeout)


def _pointer(array: Any) -> int:
    """Return the address of the first element of an array of CuPy."""
    pointer: int = array.data.ptr
    return pointer
