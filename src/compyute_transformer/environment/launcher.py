"""Launcher: what mpiexec, srun and others tell each of the processes that they started together."""

import os
import shutil
import sys
from pathlib import Path

__all__ = ["abort", "find_mpiexec", "of_sockets", "rank", "started_together"]

# The size of the job and the number of the process in it: MPICH and Intel MPI, Open MPI, a step of Slurm.
MPI = {
    "PMI_SIZE": "PMI_RANK",
    "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK",
    "SLURM_STEP_NUM_TASKS": "SLURM_PROCID",  # a batch script has no step: it is one process
}
SOCKETS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def of_sockets() -> bool:
    """Return whether no MPI started this process, and the environment says where processes meet by sockets."""
    return not _size_of_mpi() and all(os.environ.get(name) for name in SOCKETS)


def started_together() -> int:
    """Return how many processes a launcher says that it started together; 1 where there is none."""
    size = os.environ["WORLD_SIZE"] if of_sockets() else _size_of_mpi()
    return int(size) if size.isdecimal() else 1


def _size_of_mpi() -> str:
    return next((os.environ[size] for size, rank in MPI.items() if size in os.environ and rank in os.environ), "")


def rank() -> int:
    """Return the number of this process among those that were started together, as the launcher says it."""
    names = ("RANK",) if of_sockets() else MPI.values()
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdecimal()), 0)


def find_mpiexec() -> str | None:
    """Return the path of mpiexec: that of this environment, or else the first in the PATH; None without."""
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def abort() -> None:
    """End all processes that were started together, if they have met: none of them waits for one that is gone."""
    mpi4py = sys.modules.get("mpi4py.MPI")
    if mpi4py is not None and mpi4py.Is_initialized() and not mpi4py.Is_finalized() and mpi4py.COMM_WORLD.size > 1:
        mpi4py.COMM_WORLD.Abort(1)
