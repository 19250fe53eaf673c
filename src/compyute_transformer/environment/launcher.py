"""Launcher: what mpiexec, srun and others tell each of the processes that they started together."""

import os
import sys

__all__ = ["abort", "of_mpi", "rank", "started_together"]

# What launchers tell each process of its job's size: MPICH and Intel MPI, Open MPI, Slurm, PyTorch's launcher.
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS", "WORLD_SIZE")


RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "RANK")


def of_mpi() -> bool:
    """Return whether the launcher is that of an MPI."""
    return "PMI_RANK" in os.environ or "OMPI_COMM_WORLD_RANK" in os.environ


def started_together() -> int:
    """Return how many processes a launcher says that it started together; 1 where there is none."""
    sizes = [int(os.environ[name]) for name in SIZES if os.environ.get(name, "").isdecimal()]
    if "SLURM_PROCID" not in os.environ and "PMI_RANK" not in os.environ:  # a batch script itself is one process
        sizes = [int(os.environ[n]) for n in SIZES if n != "SLURM_NTASKS" and os.environ.get(n, "").isdecimal()]
    return max(sizes, default=1)


def rank() -> int:
    """Return the number of this process among those that were started together, as the launcher says it."""
    return next((int(os.environ[name]) for name in RANKS if os.environ.get(name, "").isdecimal()), 0)


def abort() -> None:
    """End all processes that were started together, if they have met: none of them waits for one that is gone."""
    mpi4py = sys.modules.get("mpi4py.MPI")
    if mpi4py is not None and mpi4py.Is_initialized() and not mpi4py.Is_finalized() and mpi4py.COMM_WORLD.size > 1:
        mpi4py.COMM_WORLD.Abort(1)
