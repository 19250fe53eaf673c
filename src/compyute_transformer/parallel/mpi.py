"""MPI: processes on one machine or on many, through mpi4py and whatever MPI it was built for."""

import json
from importlib import import_module
from typing import Any

import numpy as np

from ..arrays import Array
from .communicator import Communicator, Message, poll

__all__ = ["MPI"]


class MPI(Communicator):
    """A process of an MPI job.

    comm: a communicator of mpi4py. timeout: seconds after which a peer that does not answer is given up.
    """

    engine = "MPI"

    def __init__(self, comm: Any, timeout: float = 600.0) -> None:
        self.comm, self.timeout = comm, timeout
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.neighbors = comm.Split_type(import_module("mpi4py.MPI").COMM_TYPE_SHARED).Get_size()

    def begin(self, array: Array | None, into: Array | None, peer: int) -> Message:
        """Arrays travel as bytes, whatever their dtype."""
        requests = [] if into is None else [self.comm.Irecv(into.view(np.uint8), peer)]
        if array is not None:
            requests.append(self.comm.Isend(np.ascontiguousarray(array).view(np.uint8), peer))
        return _Requests(requests, peer, self)

    def gather(self, value: Any) -> list[Any]:
        """Values travel as JSON, so that no process builds anything else from what another one sends."""
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        lengths = np.empty(self.size, np.int64)
        _Requests([self.comm.Iallgather(np.array([len(text)]), lengths)], None, self).wait()
        every = np.empty(int(lengths.sum()), np.uint8)
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        _Requests([self.comm.Iallgatherv(text, [every, (lengths, starts)])], None, self).wait()
        return [json.loads(every[a : a + n].tobytes()) for a, n in zip(starts, lengths, strict=True)]

    def plain_sum(self, array: Array) -> bool:
        """Add by MPI's own Allreduce, whose order of sums is that of the library and of the number of processes."""
        if array.dtype not in (np.float32, np.float64):
            return False
        request = self.comm.Iallreduce(import_module("mpi4py.MPI").IN_PLACE, array)
        _Requests([request], None, self).wait()
        return True

    def abort(self) -> None:
        """End all processes of the job at once."""
        self.comm.Abort(1)


class _Requests(Message):
    """Requests of MPI, which promises neither progress nor a time limit of its own: someone must look."""

    def __init__(self, requests: list[Any], peer: int | None, owner: MPI) -> None:
        self.requests, self.peer, self.owner = requests, peer, owner

    def arrived(self) -> bool:
        """Return whether all have come. Each of them is looked at, so that none of them stands still."""
        done = True
        for request in self.requests:
            done = request.Test() and done
        return done

    def wait(self) -> None:
        poll(self.arrived, self.peer, self.owner.rank, self.owner.timeout)
