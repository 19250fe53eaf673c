"""Start: find the processes that were started together with this one, by mpiexec, srun or another launcher."""

from functools import cache
from importlib import import_module

from ..arrays import Device
from ..environment.launcher import of_sockets, started_together
from ..errors import MissingExtraError, ParallelError
from .communicator import Communicator, Single
from .mpi import MPI
from .nccl import NCCL
from .tcp import TCP

__all__ = ["for_device", "world"]


@cache
def world(timeout: float = 600.0) -> Communicator:
    """Return the communicator of all processes that were started together; one process alone is `Single`.

    timeout: seconds after which a peer that does not answer is given up.

    Raises:
        MissingExtraError: a launcher started several processes, but mpi4py is not installed.
        ParallelError: the launcher is that of another MPI, so that each process would train alone.
    """
    size = started_together()
    if size == 1:
        return Single()
    if of_sockets():
        return TCP.from_environment(timeout)
    try:
        mpi4py = import_module("mpi4py.MPI")
    except ImportError as error:
        raise MissingExtraError(
            f"parallel: {size} processes were started together, which need mpi4py to reach each other. Install it: "
            "pip install 'compyute-transformer[parallel]'"
        ) from error
    communicator = MPI(mpi4py.COMM_WORLD, timeout)
    if communicator.size != size:
        raise ParallelError(
            f"parallel: {size} processes were started together, but MPI knows of {communicator.size}: the launcher is "
            "not that of mpi4py's MPI. Start them with its own mpiexec, under Slurm with srun --mpi=pmi2 or pmix, or "
            "set MASTER_ADDR and MASTER_PORT to do without MPI."
        )
    return communicator


def for_device(communicator: Communicator, device: Device) -> Communicator:
    """Return the communicator for arrays on a device: on GPUs NCCL, by which the processes of another one then talk.

    Raises:
        MissingExtraError: several processes have GPUs, but CuPy or NCCL is not installed.
    """
    if device == "cpu" or communicator.size == 1 or isinstance(communicator, NCCL):
        return communicator
    return NCCL(communicator)
