"""MPI: processes on one machine or on many, through mpi4py and whatever MPI it was built for."""

import json
import time
from importlib import import_module
from typing import Any

import numpy as np

from ..errors import ParallelError
from .communicator import Communicator

__all__ = ["MPI"]

POLL = 5e-5  # seconds between two looks at a message that has not come


class MPI(Communicator):
    """A process of an MPI job.

    comm: a communicator of mpi4py. timeout: seconds after which a peer that does not answer is given up.
    """

    engine = "MPI"

    def __init__(self, comm: Any, timeout: float = 600.0) -> None:
        self.comm, self.timeout = comm, timeout
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.neighbors = comm.Split_type(import_module("mpi4py.MPI").COMM_TYPE_SHARED).Get_size()

    def exchange(self, array: np.ndarray, like: np.ndarray, peer: int) -> np.ndarray:
        received = np.empty_like(like)
        self._wait([self.comm.Irecv(received, peer), self.comm.Isend(np.ascontiguousarray(array), peer)], peer)
        return received

    def send(self, array: np.ndarray, peer: int) -> None:
        self._wait([self.comm.Isend(np.ascontiguousarray(array), peer)], peer)

    def receive(self, like: np.ndarray, peer: int) -> np.ndarray:
        received = np.empty_like(like)
        self._wait([self.comm.Irecv(received, peer)], peer)
        return received

    def gather(self, value: Any) -> list[Any]:
        """Values travel as JSON, so that no process builds anything else from what another one sends."""
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        lengths = np.empty(self.size, np.int64)
        self._wait([self.comm.Iallgather(np.array([len(text)]), lengths)], None)
        every = np.empty(int(lengths.sum()), np.uint8)
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        self._wait([self.comm.Iallgatherv(text, [every, (lengths, starts)])], None)
        return [json.loads(every[a : a + n].tobytes()) for a, n in zip(starts, lengths, strict=True)]

    def abort(self) -> None:
        """End all processes of the job at once."""
        self.comm.Abort(1)

    @staticmethod
    def _done(requests: list[Any]) -> bool:
        """Return whether all messages have come. Each of them is looked at, so that none of them stands still."""
        done = True
        for request in requests:
            done = request.Test() and done
        return done

    def _wait(self, requests: list[Any], peer: int | None) -> None:
        """Wait for messages. MPI promises no progress and no time limit of its own, so look again and again.

        Raises:
            ParallelError: the peer has not answered in time.
        """
        began = time.monotonic()
        while not self._done(requests):
            waited = time.monotonic() - began
            if waited > self.timeout:
                who = "another process" if peer is None else f"process {peer}"
                raise ParallelError(
                    f"parallel: {who} has not answered process {self.rank} for {self.timeout:g} s. It hangs or is "
                    "gone: end all processes, and continue the run with compyute train --resume."
                )
            if waited > 20 * POLL:
                time.sleep(POLL)
