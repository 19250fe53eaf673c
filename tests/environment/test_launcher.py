"""What launchers tell their processes: MPICH, Open MPI, Slurm, and RANK and WORLD_SIZE."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from compyute_transformer.environment.launcher import MPI, SLURM, SOCKETS, of_sockets, rank, started_together
from compyute_transformer.errors import MissingExtraError, ParallelError
from compyute_transformer.parallel import Single, start, world
from compyute_transformer.parallel.tcp import TCP

PLACE = {"MASTER_ADDR": "one", "MASTER_PORT": "29500"}
STEP = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3"}
TORCH = {"WORLD_SIZE": "2", "RANK": "1"}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for names in (MPI, SLURM, SOCKETS):
        for name in (*names, *names.values(), *PLACE):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(start, "world", start.world.__wrapped__)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (1, 0, False)),
        ({"PMI_SIZE": "4", "PMI_RANK": "2"}, (4, 2, False)),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1"}, (4, 1, False)),
        (STEP, (8, 3, False)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, (1, 0, False)),  # a batch script, before any srun
        (STEP | PLACE, (8, 3, True)),
        (STEP | PLACE | TORCH, (2, 1, True)),
        (STEP | PLACE | {"PMI_SIZE": "8", "PMI_RANK": "5"}, (8, 5, False)),  # srun --mpi=pmi2
        (TORCH, (1, 0, False)),  # left over from something else: nowhere to meet
        (TORCH | PLACE, (2, 1, True)),
        (PLACE, (1, 0, False)),
    ],
)
def test_the_number_of_processes_and_of_this_one(
    variables: dict[str, str], expected: tuple[int, int, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (started_together(), rank(), of_sockets()) == expected


def test_sockets_meet_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(TCP, "__init__", lambda self, *arguments: made.append(arguments))
    for name, value in (STEP | PLACE).items():
        monkeypatch.setenv(name, value)
    assert isinstance(start.world(5.0), TCP)
    assert made == [(3, 8, "one", 29500, 5.0)]
    monkeypatch.setenv("MASTER_PORT", "first")
    with pytest.raises(ParallelError, match="MASTER_PORT is a whole number, got 'first'"):
        TCP.from_environment()


def test_processes_that_mpi_does_not_know_do_not_train_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(start.world(), Single)
    node = SimpleNamespace(Get_size=lambda: 1)
    comm = SimpleNamespace(Get_rank=lambda: 0, Get_size=lambda: 1, Split_type=lambda kind: node)
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", SimpleNamespace(COMM_WORLD=comm, COMM_TYPE_SHARED=1))  # type: ignore[arg-type]
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ParallelError, match="8 processes were started together, but MPI knows of 1"):
        start.world()
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)  # type: ignore[arg-type]
    with pytest.raises(MissingExtraError, match="8 processes"):
        start.world()
    assert world is not start.world
