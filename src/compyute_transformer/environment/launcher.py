"""Launcher: what mpiexec, srun and others tell each of the processes that they started together."""

import os
import shutil
import sys
from pathlib import Path

__all__ = ["abort", "find_mpiexec", "meeting_place", "numbers", "of_sockets", "rank", "started_together"]

# The size of the job and the number of the process in it: MPICH and Intel MPI, Open MPI, a step of Slurm.
MPI = {"PMI_SIZE": "PMI_RANK", "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK"}
SLURM = {"SLURM_STEP_NUM_TASKS": "SLURM_PROCID"}  # a batch script has no step: it is one process
SOCKETS = {"WORLD_SIZE": "RANK"}


def of_sockets() -> bool:
    """Return whether no MPI started this process, and the environment says where processes meet by sockets."""
    return not _found(MPI) and bool(meeting_place()) and bool(_found(SOCKETS | SLURM))


def meeting_place() -> tuple[str, str] | None:
    """Return MASTER_ADDR and MASTER_PORT, where process 0 listens; None where they are not set."""
    host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    return (host, port) if host and port else None


def started_together() -> int:
    """Return how many processes a launcher says that it started together; 1 where there is none."""
    size = next(iter(numbers().values()), "")
    return int(size) if size.isdecimal() else 1


def rank() -> int:
    """Return the number of this process among those that were started together, as the launcher says it."""
    number = next(reversed(numbers().values()), "")
    return int(number) if number.isdecimal() else 0


def numbers() -> dict[str, str]:
    """Return the variables that say how many processes there are and which one this is, in this order; or none."""
    return _found(SOCKETS | SLURM if of_sockets() else MPI | SLURM)


def _found(names: dict[str, str]) -> dict[str, str]:
    """Return the first pair of variables that are both set."""
    for pair in names.items():
        if all(os.environ.get(name) for name in pair):
            return {name: os.environ[name] for name in pair}
    return {}


def find_mpiexec() -> str | None:
    """Return the path of mpiexec: that of this environment, or else the first in the PATH; None without."""
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def abort() -> None:
    """End all processes that were started together, if they have met: none of them waits for one that is gone."""
    mpi4py = sys.modules.get("mpi4py.MPI")
    if mpi4py is not None and mpi4py.Is_initialized() and not mpi4py.Is_finalized() and mpi4py.COMM_WORLD.size > 1:
        mpi4py.COMM_WORLD.Abort(1)
