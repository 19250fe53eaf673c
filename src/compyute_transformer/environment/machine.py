"""Machine: collect the facts that speed depends on: processor, cores, memory, packages, BLAS, GPU.

A fact that cannot be determined is None, never a guess.
"""

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from .._version import __version__
from ..arrays import gpu_fault
from ..dispatch import package_fault
from .products import bfloat16_products

__all__ = ["VARIABLES", "Blas", "Gpu", "Machine", "Package", "blas_of", "examine", "processor_name"]

# The environment variables about threads and kernels. Each is read once, when its library loads.
VARIABLES = (
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "NUMBA_NUM_THREADS",
    "NUMBA_THREADING_LAYER",
    "NUMBA_DISABLE_JIT",
)

# What `cpu` sets itself unless the user did.
OURS = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "10000"}

# Import name -> the names under which it is distributed.
CORE = {
    name: (name,)
    for name in ("numpy", "scipy", "numba", "safetensors", "tokenizers", "typer", "rich", "pooch", "jaxtyping")
}
OPTIONAL = {
    "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "ml_dtypes": ("ml-dtypes",),
    "nvmath": ("nvmath-python",),
    "cudnn": ("nvidia-cudnn-frontend",),
    "tensorboardX": ("tensorboardX",),
    "torch": ("torch",),
}


@dataclass(frozen=True)
class Package:
    """A package. version None: not installed. fault: why importing it fails although it is installed."""

    name: str
    version: str | None
    fault: str | None = None

    @property
    def usable(self) -> bool:
        """Whether the package is installed and has no known fault."""
        return self.version is not None and self.fault is None


@dataclass(frozen=True)
class Blas:
    """The linear algebra library of a package.

    kernel: the processor that its code is made for, such as "SkylakeX". threads: their number. None where unknown.
    """

    package: str
    library: str
    kernel: str | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Gpu:
    """The NVIDIA GPUs. driver: its version, or None. fault: why no GPU can be used, or None."""

    driver: str | None
    fault: str | None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Machine:
    """A machine. cores: those this process may use. load: the load of the last minute, on `all_cores`.

    kernels_fault: why no kernel for the CPU can run, or None. bfloat16: how products in bfloat16 are computed on it.
    """

    version: str
    python: str
    executable: str
    system: str
    processor: str
    cores: int
    all_cores: int
    load: float | None
    memory_bytes: int | None
    packages: tuple[Package, ...]
    blas: tuple[Blas, ...]
    numba_threads: int | None
    environment: dict[str, str]
    gpu: Gpu
    kernels_fault: str | None = None
    bfloat16: str = "in float32, of rounded operands"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def examine() -> Machine:
    """Return the facts about this machine. This imports the packages it reports on and takes a second or two."""
    core = {name: _package(name, distributions, imported=True) for name, distributions in CORE.items()}
    optional = {name: _package(name, distributions, imported=False) for name, distributions in OPTIONAL.items()}
    return Machine(
        version=__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        executable=sys.executable,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=processor_name(),
        cores=_cores(),
        all_cores=os.cpu_count() or 1,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        memory_bytes=_memory_bytes(),
        packages=(*core.values(), *optional.values()),
        blas=tuple(blas_of(name) for name in ("numpy", "scipy") if core[name].usable),
        numba_threads=sys.modules["numba"].config.NUMBA_NUM_THREADS if core["numba"].usable else None,
        environment={n: os.environ[n] for n in VARIABLES if n in os.environ and os.environ[n] != OURS.get(n)},
        gpu=Gpu(_driver(), gpu_fault(), _gpu_names()),
        kernels_fault=package_fault("cpu"),
        bfloat16=bfloat16_products(),
    )


# --- packages ---


def _package(name: str, distributions: tuple[str, ...], imported: bool) -> Package:
    version = next(filter(None, map(_version, distributions)), None)
    if version is None or not imported:
        return Package(name, version)
    try:
        import_module(name)
    except Exception as error:  # a package that does not fit the others fails in its own way
        return Package(name, version, f"{type(error).__name__}: {error}")
    return Package(name, version)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


# --- processor ---


def processor_name() -> str:
    """Return the name of the processor, as the system has it."""
    if sys.platform == "linux":
        with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith(("model name", "Model")):
                    return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        with suppress(OSError, subprocess.SubprocessError):
            return _output("sysctl", "-n", "machdep.cpu.brand_string")
    if sys.platform == "win32":
        import winreg

        with suppress(OSError), winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, WINDOWS_PROCESSOR) as key:
            return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
    return platform.processor() or platform.machine()


WINDOWS_PROCESSOR = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def _cores() -> int:
    """Return the number of cores this process may use. A container or taskset may allow fewer than there are."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # "max 100000", or microseconds of processor time per period
        quota, period = map(int, Path("/sys/fs/cgroup/cpu.max").read_text().split())
        usable = min(usable, max(1, round(quota / period)))
    return usable


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


# --- BLAS ---


def blas_of(package: str) -> Blas:
    """Return the BLAS the package was built with, and for OpenBLAS its kernel and number of threads."""
    module = import_module(package)
    built: dict[str, Any] = {}
    with suppress(Exception):  # show_config's dictionary exists since NumPy 1.25, and its keys may change
        built = module.show_config(mode="dicts")["Build Dependencies"]["blas"]
    library = f"{built.get('name', 'unknown')} {built.get('version', '')}".strip()
    for path in _openblas_files(Path(module.__file__ or "")):
        with suppress(OSError):
            loaded = ctypes.CDLL(str(path))
            kernel, threads = (
                _ask(loaded, "get_corename", ctypes.c_char_p),
                _ask(loaded, "get_num_threads", ctypes.c_int),
            )
            if kernel is not None:
                return Blas(package, library, kernel.decode(), threads)
    return Blas(package, library)


def _openblas_files(package: Path) -> Iterator[Path]:
    """Yield the OpenBLAS files in the wheel of the package, else those that the process has loaded."""
    folders = (package.parent.parent / f"{package.parent.name}.libs", package.parent / ".dylibs")
    bundled = [file for folder in folders if folder.is_dir() for file in sorted(folder.glob("*openblas*"))]
    yield from bundled
    if not bundled and sys.platform == "linux":
        with suppress(OSError):
            maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
            loaded = {line.split(maxsplit=5)[5] for line in maps if "openblas" in line}
            yield from map(Path, sorted(file for file in loaded if ".libs/" not in file))


def _ask(library: ctypes.CDLL, function_name: str, result_type: Any) -> Any:
    """Call a function of OpenBLAS. Its name depends on who built it and on the width of its integers."""
    for prefix in ("scipy_openblas_", "openblas_"):
        for suffix in ("", "64_"):
            with suppress(AttributeError):
                function = getattr(library, f"{prefix}{function_name}{suffix}")
                function.restype = result_type
                return function()
    return None


# --- GPU ---


def _driver() -> str | None:
    with suppress(OSError, subprocess.SubprocessError):
        lines = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()
        return lines[0] if lines else None
    return None


def _gpu_names() -> tuple[str, ...]:
    if gpu_fault() is not None:
        return ()
    runtime = sys.modules["cupy"].cuda.runtime
    return tuple(runtime.getDeviceProperties(i)["name"].decode() for i in range(runtime.getDeviceCount()))
