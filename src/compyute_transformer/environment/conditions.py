"""Conditions of a benchmark: the machine as columns of a CSV row, and warnings about what makes numbers unreliable."""

from dataclasses import dataclass, replace
from datetime import date
from importlib.util import find_spec

from ..arrays import Device
from ..errors import BackendError
from .doctor import recommend
from .machine import Machine, examine
from .processor import architecture

__all__ = ["Environment", "has_torch", "survey", "use_threads_of"]

NO_TORCH = "PyTorch is not installed, so ours runs alone: pip install 'compyute-transformer[verify]'"
MEASURED = ("numpy", "scipy", "numba", "torch")


@dataclass(frozen=True)
class Environment:
    """The environment of a benchmark. Each field is a column of the CSV.

    threads: the number that every candidate uses. date: ISO 8601.
    """

    machine: str
    cpu: str
    threads: int
    blas: str
    versions: str
    date: str


def survey(device: Device = "cpu") -> tuple[Environment, list[str]]:
    """Return the environment, and warnings about what slows this machine or keeps it busy.

    device: where the benchmark computes; the environment of a GPU names it.

    Raises BackendError where there is no GPU to compute on.
    """
    machine = examine()
    if device == "cuda" and machine.gpu.fault:
        raise BackendError(f"bench: nothing can be timed on 'cuda'. {machine.gpu.fault}.")
    warnings = [f"{found.problem}. {found.remedy}." for found in recommend(machine) if found.kind != "unused"]
    if policy := machine.environment.get("OMP_WAIT_POLICY"):
        warnings.append(f"OMP_WAIT_POLICY={policy} is set and changes the threads of PyTorch too.")
    environment = _describe(machine)
    if device == "cuda":
        environment = replace(environment, machine=", ".join([*machine.gpu.names[:1], environment.machine]))
    return environment, warnings


def has_torch() -> bool:
    """Return whether PyTorch is installed."""
    return find_spec("torch") is not None


def use_threads_of(environment: Environment) -> None:
    """Give PyTorch as many threads as our kernels use."""
    import torch

    torch.set_num_threads(environment.threads)


def _describe(machine: Machine) -> Environment:
    memory = f", {machine.memory_bytes / 2**30:.0f} GiB" if machine.memory_bytes else ""
    system, *_, width = machine.system.split()  # the release of the kernel in between says little
    versions = [
        f"{package.name} {package.version or 'none'}" for package in machine.packages if package.name in MEASURED
    ]
    return Environment(
        machine=f"{system} {width}, {machine.cores} cores{memory}",
        cpu=f"{machine.processor} ({design})" if (design := architecture()) else machine.processor,
        threads=machine.numba_threads or next((blas.threads for blas in machine.blas if blas.threads), machine.cores),
        blas="; ".join(f"{blas.package}: {blas.library} {blas.kernel or ''}".strip() for blas in machine.blas),
        versions=", ".join(["compyute-transformer " + machine.version, machine.python, *versions]),
        date=date.today().isoformat(),
    )
