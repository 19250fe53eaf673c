"""Doctor: find what is missing or slow on this machine, and recommend a remedy.

machine.examine() -> facts -> recommend() -> problems and remedies -> show(), or to_dict() for programs
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from .machine import CORE, VARIABLES, Blas, Machine, Package

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Recommendation", "recommend", "show", "to_dict"]

Kind = Literal["broken", "slow", "unused"]

GPU = "'compyute-transformer[gpu]'"
LEAST_DRIVER = 580  # for CUDA 13
ON_GPU = ("ml_dtypes", "nvmath", "cudnn")  # beside CuPy, for speed

# What each package is used for, and what to install to get it.
PURPOSES = {
    "numpy": ("arrays", "numpy"),
    "scipy": ("the error function, and the BLAS inside the CPU kernels", "scipy"),
    "numba": ("the fast CPU kernels", "numba"),
    "safetensors": ("weights on disk", "safetensors"),
    "tokenizers": ("byte pair encoding", "tokenizers"),
    "typer": ("this command", "typer"),
    "rich": ("tables and progress bars", "rich"),
    "pooch": ("fetching tinyshakespeare", "pooch"),
    "jaxtyping": ("shapes in signatures", "jaxtyping"),
    "cupy": ("NVIDIA GPUs", GPU),
    "ml_dtypes": ("bfloat16 on NVIDIA GPUs", GPU),
    "nvmath": ("cuBLASLt's products on NVIDIA GPUs", GPU),
    "cudnn": ("cuDNN's attention on NVIDIA GPUs", GPU),
    "tensorboardX": ("TensorBoard files", "'compyute-transformer[tensorboard]'"),
    "torch": ("verification against PyTorch", "'compyute-transformer[verify]'"),
}
FAST_BLAS = ("openblas", "mkl", "accelerate", "blis", "nvpl", "armpl", "flexiblas")
MOST_BLAS_THREADS = 64  # NumPy's wheels build OpenBLAS for so many


@dataclass(frozen=True)
class Recommendation:
    """A problem and its remedy. kind: "broken" fails, "slow" costs speed, "unused" is a part that is not used."""

    kind: Kind
    problem: str
    remedy: str


def recommend(machine: Machine) -> list[Recommendation]:
    """Return all recommendations, the most serious first."""
    found = [*_about_packages(machine), *_about_blas(machine), *_about_threads(machine), *_about_gpu(machine)]
    return sorted(found, key=lambda recommendation: get_args(Kind).index(recommendation.kind))


def to_dict(machine: Machine) -> dict[str, Any]:
    """Return the machine and the recommendations as plain values."""
    return {"machine": machine.to_dict(), "recommendations": [asdict(item) for item in recommend(machine)]}


def _about_packages(machine: Machine) -> Iterator[Recommendation]:
    for package in machine.packages:
        purpose, install = PURPOSES[package.name]
        if package.fault:
            problem = (
                f"{package.name} {package.version} ({purpose}) is installed but cannot be imported: {package.fault}"
            )
            yield Recommendation("broken", problem, f"pip install --upgrade --force-reinstall {install}")
        elif package.version is None and package.name in CORE:
            kind: Kind = "slow" if package.name == "numba" else "broken"
            yield Recommendation(kind, f"{package.name} is not installed: {purpose}", f"pip install {install}")


def _about_blas(machine: Machine) -> Iterator[Recommendation]:
    if coretype := machine.environment.get("OPENBLAS_CORETYPE"):
        problem = f"OPENBLAS_CORETYPE={coretype} makes OpenBLAS run its kernels for that processor, not for this one"
        yield Recommendation("slow", problem, "Unset OPENBLAS_CORETYPE")
    for blas in machine.blas:
        if not any(name in blas.library.lower() for name in FAST_BLAS):
            problem = f"{blas.package} uses the BLAS {blas.library}, which is not known to be a fast one"
            yield Recommendation(
                "slow", problem, f"Install {blas.package} from its wheel: pip install --upgrade {blas.package}"
            )


def _about_threads(machine: Machine) -> Iterator[Recommendation]:
    cores = machine.cores
    pools = [("NumPy's BLAS", blas.threads, "OPENBLAS_NUM_THREADS") for blas in machine.blas if blas.package == "numpy"]
    pools.append(("Numba", machine.numba_threads, "NUMBA_NUM_THREADS"))
    for pool, threads, variable in pools:
        if threads is None:
            continue
        said = [name for name in (variable, "OMP_NUM_THREADS") if name in machine.environment]
        remedy = f"Unset {said[0]}, or set it to {cores}" if said else f"Set {variable}={cores}"
        if threads < min(cores, MOST_BLAS_THREADS):
            yield Recommendation("slow", f"{pool} runs {_count(threads, 'thread')} on {_count(cores, 'core')}", remedy)
        elif threads > cores:
            problem = (
                f"{pool} runs {_count(threads, 'thread')} on {_count(cores, 'core')}, which is more than there are"
            )
            yield Recommendation("slow", problem, remedy)
    if machine.environment.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        yield Recommendation(
            "slow", "NUMBA_DISABLE_JIT is set: no kernel runs, only the references", "Unset NUMBA_DISABLE_JIT"
        )
    if "NUMBA_THREADING_LAYER" in machine.environment and machine.kernels_fault:
        problem = f"No kernel runs, only the references: {machine.kernels_fault}"
        yield Recommendation("slow", problem, "Unset NUMBA_THREADING_LAYER")
    if machine.load is not None and machine.load > machine.all_cores / 2:
        problem = f"The machine is busy: a load of {machine.load:.1f} on {_count(machine.all_cores, 'core')}"
        yield Recommendation("slow", problem, "Close other programs; timings are not reliable meanwhile")


def _about_gpu(machine: Machine) -> Iterator[Recommendation]:
    cupy = next(package for package in machine.packages if package.name == "cupy")
    if machine.gpu.driver and machine.gpu.fault:
        problem = f"An NVIDIA driver is installed, but no GPU can be used: {machine.gpu.fault}"
        if cupy.version:
            remedy = f"CuPy for CUDA 13 needs driver {LEAST_DRIVER} or newer. If this one is, {_install('cupy')}"
            yield Recommendation("broken", problem, remedy)
        else:
            yield Recommendation("unused", problem, _install("cupy"))
    elif cupy.version and machine.gpu.fault:
        problem = "CuPy is installed, but no NVIDIA driver is: nvidia-smi was not found or does not answer"
        yield Recommendation(
            "unused", problem, f"On a machine with an NVIDIA GPU install driver {LEAST_DRIVER} or newer"
        )
    if machine.gpu.fault is None:
        for package in machine.packages:
            if package.name in ON_GPU and package.version is None:
                problem = f"{package.name} is not installed: {PURPOSES[package.name][0]} run by CuPy alone, slower"
                yield Recommendation("slow", problem, _install(package.name))


def _install(name: str) -> str:
    return f"pip install {PURPOSES[name][1]}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# --- for people ---

STYLES: dict[Kind, str] = {"broken": "bold red", "slow": "bold yellow", "unused": "bold cyan"}


def show(machine: Machine, console: "Console") -> None:
    """Print the facts as a table and the advice as a list."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 3, 0, 0))
    for part, rows in _facts(machine).items():
        for index, (name, value) in enumerate(rows):
            table.add_row(
                Text("" if index else part, style="bold"), name, Text(value), end_section=index + 1 == len(rows)
            )
    console.print(table)
    console.print()
    advice = recommend(machine)
    if not advice:
        console.print(Text("Nothing found that breaks a run or slows it.", style="green"))
    listing = Table(box=None, show_header=False, padding=(0, 3, 0, 0))
    for found in advice:
        listing.add_row(Text(found.kind, style=STYLES[found.kind]), Text(f"{found.problem}.\n→ {found.remedy}"))
    console.print(listing)


def _facts(machine: Machine) -> dict[str, list[tuple[str, str]]]:
    memory = f", {machine.memory_bytes / 2**30:.1f} GiB of memory" if machine.memory_bytes else ""
    of_all = f" of {machine.all_cores}" if machine.cores != machine.all_cores else ""
    machine_facts = [
        ("compyute", machine.version),
        ("Python", f"{machine.python}, {machine.executable}"),
        ("system", machine.system),
        ("processor", f"{machine.processor}, {machine.cores}{of_all} cores{memory}"),
    ]
    machine_facts.append(("bfloat16", f"products {machine.bfloat16}"))
    if machine.load is not None:
        machine_facts.append(("load", f"{machine.load:.1f} on {_count(machine.all_cores, 'core')}"))
    gpus = list(machine.gpu.names) or [f"none usable. {machine.gpu.fault}"]
    return {
        "Machine": machine_facts,
        "Threads": [
            *((blas.package, _describe(blas)) for blas in machine.blas),
            ("numba", "none" if machine.numba_threads is None else _count(machine.numba_threads, "thread")),
        ],
        "GPU": [("driver", machine.gpu.driver or "none"), *(("device", gpu) for gpu in gpus)],
        "Environment": [
            *(("set", f"{name}={value}") for name, value in machine.environment.items()),
            ("not set", ", ".join(name for name in VARIABLES if name not in machine.environment)),
        ],
        "Packages": [(package.name, _state(package)) for package in machine.packages],
    }


def _describe(blas: Blas) -> str:
    kernel = f", kernel {blas.kernel}" if blas.kernel else ""
    threads = f", {_count(blas.threads, 'thread')}" if blas.threads else ""
    return f"{blas.library}{kernel}{threads}"


def _state(package: Package) -> str:
    purpose, install = PURPOSES[package.name]
    if package.version is None:
        return f"not installed. {purpose}: pip install {install}"
    return f"{package.version:12} {'cannot be imported' if package.fault else purpose}"
