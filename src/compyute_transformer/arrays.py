"""NumPy and CuPy arrays: which library made an array, on which device it lives, and how to move it.

This file is the only one outside `gpu/` that imports CuPy.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

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
    "array_module",
    "byte_bounds",
    "constant",
    "device_of",
    "erf",
    "gpu_fault",
    "is_captured",
    "kept_constants",
    "memory_fault",
    "to_device",
    "to_numpy",
]

Device = Literal["cpu", "cuda"]

_constants: ContextVar[dict[Any, tuple[Array, Array]] | None] = ContextVar("constants", default=None)


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


def byte_bounds(array: Array) -> tuple[int, int]:
    """The addresses of the first byte of an array and of the one behind its last, on its own device."""
    bounds = array_module(array).byte_bounds if _is_cupy(array) else np.lib.array_utils.byte_bounds
    low, high = bounds(array)
    return low, high


def is_captured(array: object) -> bool:
    """Whether work on the array is recorded for a CUDA graph just now, so that the CPU can read nothing of it."""
    return _is_cupy(array) and bool(sys.modules["cupy"].cuda.get_current_stream().is_capturing())


@cache
def gpu_fault() -> str | None:
    """Why no GPU can be used, in one sentence; None when one can."""
    if find_spec("cupy") is None:
        return "CuPy is not installed: pip install 'compyute-transformer[gpu]'"
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # a missing driver surfaces as any of several errors of CuPy's
        named = f"{type(error).__name__}: {error}"
        return f"CuPy is installed but finds no usable GPU ({named}): it needs one of NVIDIA's, and its driver"
    return None if count else "CuPy is installed but the machine has no NVIDIA GPU"


def memory_fault(error: MemoryError) -> str:
    """What was asked for and what there is, in one sentence, where memory ran out: on a GPU where CuPy says so."""
    found = re.search(r"allocating ([\d,]+) bytes \(allocated so far: ([\d,]+) bytes", str(error))
    if found is None or gpu_fault() is not None:
        return f"out of memory: {error}"
    asked, used = (int(number.replace(",", "")) / 2**30 for number in found.groups())
    free, total = (size / 2**30 for size in sys.modules["cupy"].cuda.runtime.memGetInfo())
    return (
        f"out of memory on the GPU: {asked:.2f} GiB more were asked for, beside {used:.2f} GiB in use here, of the "
        f"{total:.2f} GiB it has and the {free:.2f} GiB that are free"
    )


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


def constant(array: Array, like: Array) -> Array:
    """Return an array of NumPy's whose values never change, on the device of another array."""
    if not _is_cupy(like):
        return array
    kept, upload = _constants.get(), sys.modules["cupy"].asarray
    if kept is None:
        moved: Array = upload(array)
        return moved
    key = array.ctypes.data, array.shape, array.strides, array.dtype.str
    if key not in kept:
        kept[key] = array, upload(array)  # both: while the first lives, no other array has its address
    return kept[key][1]


@contextmanager
def kept_constants() -> Iterator[dict[Any, tuple[Array, Array]]]:
    """Let `constant` move each array once within a `with` block, and keep it in the dictionary that is yielded.

    A CUDA graph copies nothing from the CPU: what it reads was moved before its capture, and lives as long as it does.
    """
    kept: dict[Any, tuple[Array, Array]] = {}
    token = _constants.set(kept)
    try:
        yield kept
    finally:
        _constants.reset(token)


def to_numpy(array: Array) -> Array:
    """The array on the CPU, as NumPy's."""
    return array.get() if _is_cupy(array) else np.asarray(array)  # type: ignore[attr-defined]


def erf(x: Array) -> Array:
    """The error function, by element, in the dtype of x."""
    special = import_module("cupyx.scipy.special" if _is_cupy(x) else "scipy.special")
    y: Array = special.erf(x)
    return y.astype(x.dtype, copy=False)  # SciPy computes float16 in float32
