"""Ground: what a race was run on, in the words of a CSV row, and what of it spoils the numbers."""

from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec

from .doctor import advise
from .machine import Machine, examine

__all__ = ["Ground", "has_torch", "survey", "use_threads_of"]

NO_TORCH = "PyTorch is not installed, so ours runs alone: pip install 'compyute-transformer[verify]'"
IN_A_RACE = ("numpy", "scipy", "numba", "torch")


@dataclass(frozen=True)
class Ground:
    """Each field is a column of the CSV. threads: those of every candidate. date: ISO 8601."""

    machine: str
    cpu: str
    threads: int
    blas: str
    versions: str
    date: str


def survey() -> tuple[Ground, list[str]]:
    """The ground, and warnings: what slows this machine or keeps it busy."""
    machine = examine()
    warnings = [f"{found.finding}. {found.remedy}." for found in advise(machine) if found.kind != "unused"]
    if policy := machine.environment.get("OMP_WAIT_POLICY"):
        warnings.append(f"OMP_WAIT_POLICY={policy} is set, and holds for PyTorch's threads as well.")
    return _describe(machine), warnings


def has_torch() -> bool:
    """Whether PyTorch can take part."""
    return find_spec("torch") is not None


def use_threads_of(ground: Ground) -> None:
    """Give PyTorch as many threads as we have."""
    import torch

    torch.set_num_threads(ground.threads)


def _describe(machine: Machine) -> Ground:
    memory = f", {machine.memory_bytes / 2**30:.0f} GiB" if machine.memory_bytes else ""
    system, *_, architecture = machine.system.split()  # the release of the kernel in between says little
    versions = [
        f"{package.name} {package.version or 'none'}" for package in machine.packages if package.name in IN_A_RACE
    ]
    return Ground(
        machine=f"{system} {architecture}, {machine.cores} cores{memory}",
        cpu=machine.processor,
        threads=machine.numba_threads or next((blas.threads for blas in machine.blas if blas.threads), machine.cores),
        blas="; ".join(f"{blas.package}: {blas.library} {blas.kernel or ''}".strip() for blas in machine.blas),
        versions=", ".join(["compyute-transformer " + machine.version, machine.python, *versions]),
        date=date.today().isoformat(),
    )
