"""Which array library, which device, and which of two functions with one name: the readable body or its fast twin.

An op is written once, readably, for any array library. `@fast` on it looks for a function of the same name in the file
of the same name in `cpu/` or `gpu/`, by the device of the arguments, and runs that where it serves; else the body.

    layer_norm_forward(x, weight, bias)               # the twin if there is one that serves, else the body
    layer_norm_forward.reference(x, weight, bias)     # always the body
    with use("reference"): ...                        # bodies only
    with use("cpu"): ...                              # twins or an error, never the body in silence

This file is the only one outside `gpu/` that imports CuPy.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, update_wrapper
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeAlias, TypeVar, get_args

import numpy as np

from .errors import BackendError, DeviceError

if TYPE_CHECKING:
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[Any]
else:
    Array = Any  # NumPy or CuPy; jaxtyping checks dtype and shape of either

__all__ = [
    "Array",
    "Device",
    "Twin",
    "array_module",
    "device_of",
    "erf",
    "fast",
    "only_twins_of",
    "set_threads",
    "threads",
    "to_device",
    "to_numpy",
    "use",
]

Device = Literal["cpu", "cuda"]
Twins = Literal["auto", "reference", "cpu", "gpu"]
FLOORS = {"cpu": "cpu", "cuda": "gpu"}  # a device's fast twins live on this floor

P = ParamSpec("P")
R = TypeVar("R")


def _is_cupy(array: object) -> bool:
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)


def device_of(array: object) -> Device:
    """Where an array lives: "cuda" for CuPy's arrays, "cpu" for anything else."""
    return "cuda" if _is_cupy(array) else "cpu"


def array_module(*arrays: object) -> Any:
    """NumPy or CuPy, whichever made the arrays. None is passed over.

    Raises:
        DeviceError: the arrays live on different devices.
    """
    if "cupy" not in sys.modules:  # an array of CuPy's cannot exist unless CuPy was imported
        return np
    on_gpu = {_is_cupy(array) for array in arrays if array is not None}
    if len(on_gpu) > 1:
        raise DeviceError(
            "array_module: all arrays of one call live on one device, got both NumPy and CuPy arrays. "
            "Move them with to_device(array, device) or module.to(device)."
        )
    return sys.modules["cupy"] if True in on_gpu else np


@cache
def gpu_fault() -> str | None:
    """Why no GPU can be used, in one sentence; None when one can."""
    if find_spec("cupy") is None:
        return "CuPy is not installed: pip install 'compyute-transformer[gpu]'"
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # a missing driver surfaces as any of several errors of CuPy's
        return f"CuPy is installed but finds no usable GPU ({type(error).__name__}: {error})"
    return None if count else "CuPy is installed but the machine has no NVIDIA GPU"


def floor_fault(floor: str) -> str | None:
    """Why no twin of a floor ("cpu" or "gpu") can run here, in one sentence; None when they can."""
    if floor == "gpu":
        return gpu_fault()
    return None if find_spec("numba") else "Numba is not installed: pip install numba"


def to_device(array: Array, device: Device) -> Array:
    """The array on the device; itself when it is there already.

    Raises:
        BackendError: the device is not one of ours, or cannot be used; the message says why.
    """
    if device not in get_args(Device):
        raise BackendError(f"to_device: a device is 'cpu' or 'cuda', got {device!r}.")
    if device == device_of(array):
        return array
    if device == "cpu":
        return to_numpy(array)
    if fault := gpu_fault():
        raise BackendError(f"to_device: no array can be moved to 'cuda'. {fault}.")
    converted: Array = sys.modules["cupy"].asarray(array)
    return converted


def to_numpy(array: Array) -> Array:
    """The array on the CPU, as NumPy's."""
    return array.get() if _is_cupy(array) else np.asarray(array)  # type: ignore[attr-defined]


def erf(x: Array) -> Array:
    """The error function, by element."""
    special = import_module("cupyx.scipy.special" if _is_cupy(x) else "scipy.special")
    y: Array = special.erf(x)
    return y


# --- threads -------------------------------------------------------------------------------------------------------


def threads() -> int:
    """How many threads the fast twins run on when called from this thread; without Numba, NumPy's BLAS."""
    count: int = import_module(f"{__package__}.cpu._threads").threads()
    return count


def set_threads(count: int, override: bool = False) -> int:
    """Let the fast twins, and the BLAS of NumPy and SciPy, run on this many threads. Returns how many twins run on now.

    A pool whose number the user set in the environment (NUMBA_NUM_THREADS, OMP_NUM_THREADS, OPENBLAS_NUM_THREADS) keeps
    it, unless `override`. It holds for calls from the thread that says so, as Numba has it; the results of the twins do
    not depend on it. Numba's pool cannot grow after it has started: beyond its size, twins run on all of it.

    Raises:
        BackendError: count is no whole number of at least 1.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise BackendError(f"set_threads: a number of threads is a whole number of at least 1, got {count!r}.")
    import_module(f"{__package__}.cpu._threads").set_threads(count, override)
    return threads()


# --- readable and fast ---------------------------------------------------------------------------------------------

_choice: ContextVar[Twins] = ContextVar("twins", default="auto")


@contextmanager
def use(twins: Twins) -> Iterator[None]:
    """Choose, within a `with` block, which of two functions of one name runs.

    "auto": the twin where it serves, else the body. "reference": the body. "cpu", "gpu": the twin of that floor, or a
    BackendError where there is none.
    """
    if twins not in get_args(Twins):
        raise BackendError(f"use: one of {', '.join(get_args(Twins))}, got {twins!r}.")
    token = _choice.set(twins)
    try:
        yield
    finally:
        _choice.reset(token)


def _device_of_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Device:
    """Where the arrays of a call live, those a forward saved included: a loss's dy may be a plain number."""
    if "cupy" not in sys.modules:
        return "cpu"
    for value in (*args, *kwargs.values()):
        for array in value if isinstance(value, tuple) else (value,):
            if _is_cupy(array):
                return "cuda"
    return "cpu"


_all: list["Twin[..., Any]"] = []


@contextmanager
def only_twins_of(*words: str) -> Iterator[None]:
    """Within a `with` block, only the ops of some files ("linear", "norm") have twins; the others run their bodies.

    For measurements: what does each twin gain? Holds for all threads.
    """
    hidden = [(twin, twin._found) for twin in _all if twin.word not in words]
    for twin, _ in hidden:
        twin._found = dict.fromkeys(FLOORS.values())
    try:
        yield
    finally:
        for twin, found in hidden:
            twin._found = found


class Twin(Generic[P, R]):
    """A readable function that knows its fast twins. Made by `@fast`.

    reference: the readable body, always callable.
    """

    __name__: str

    def __init__(self, reference: Callable[P, R]) -> None:
        self.reference = reference
        self.word = reference.__module__.rpartition(".")[2]
        self._found: dict[str, Callable[P, R] | None] = {}
        _all.append(self)
        update_wrapper(self, reference)

    def twin(self, floor: str) -> Callable[P, R] | None:
        """The function of the same name on a floor ("cpu" or "gpu"), or None. Found once, then remembered."""
        if floor not in self._found:
            name = f"{__package__}.{floor}.{self.word}"
            module = import_module(name) if floor_fault(floor) is None and find_spec(name) else None
            self._found[floor] = getattr(module, self.__name__, None)
        return self._found[floor]

    def has_twin(self, array: Array) -> bool:
        """Whether there is a twin for arrays on this one's device, and `use` lets it run."""
        return _choice.get() != "reference" and self.twin(FLOORS[device_of(array)]) is not None

    def runs(self, device: Device) -> str:
        """What a call on arrays of a device runs, as `use` says: "cpu" or "gpu", a twin's floor, or "reference"."""
        choice = _choice.get()
        floor = FLOORS[device] if choice == "auto" else choice
        return floor if floor != "reference" and self.twin(floor) else "reference"

    def serving(self, *args: P.args, **kwargs: P.kwargs) -> Callable[P, R] | None:
        """The twin that a call with these arguments runs; None where it runs the body."""
        choice = _choice.get()
        if choice == "reference":
            return None
        twin = self.twin(FLOORS[_device_of_call(args, kwargs)] if choice == "auto" else choice)
        return twin if twin is not None and twin.serves(*args, **kwargs) else None  # type: ignore[attr-defined]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the twin where it serves, else the body, as `use` says."""
        twin = self.serving(*args, **kwargs)
        if twin is not None:
            return twin(*args, **kwargs)
        choice = _choice.get()
        if choice in ("auto", "reference"):
            return self.reference(*args, **kwargs)
        missing = floor_fault(choice) or "the op has no twin there"
        reason = "the op has a twin that does not serve these arguments" if self.twin(choice) else missing
        raise BackendError(
            f"{self.__name__}: the twin on floor {choice!r} was asked for by use({choice!r}), but {reason}. "
            "Use use('auto') to fall back on the readable body."
        )


def fast(reference: Callable[P, R]) -> Twin[P, R]:
    """Let a fast twin of the same name stand in for this readable function."""
    return Twin(reference)
