"""Dispatch: an op runs its reference, or a kernel where one is registered that supports the arguments.

An op is written once, readably, for any array library. `@dispatched` lets a kernel stand in for it:

    layer_norm_forward(x, weight, bias)               # the kernel where one supports the arguments, else the reference
    layer_norm_forward.reference(x, weight, bias)     # always the reference
    with use_kernels("reference"): ...                # references only
    with use_kernels("cpu"): ...                      # kernels, or an error where there is none
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import update_wrapper
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Generic, Literal, ParamSpec, TypeVar, get_args

from .arrays import Array, Device, device_of, gpu_fault
from .errors import BackendError

__all__ = ["Dispatched", "dispatched", "only_kernels_of", "package_fault", "use_kernels"]

Kernels = Literal["auto", "reference", "cpu", "cuda"]
PACKAGES = {"cpu": "cpu", "cuda": "gpu"}  # the package that holds the kernels of each device

P = ParamSpec("P")
R = TypeVar("R")


def package_fault(device: str) -> str | None:
    """Return why no kernel for a device ("cpu" or "cuda") can run here, in one sentence; None where they can."""
    if device == "cuda":
        return gpu_fault()
    return None if find_spec("numba") else "Numba is not installed: pip install numba"


_choice: ContextVar[Kernels] = ContextVar("kernels", default="auto")


@contextmanager
def use_kernels(kernels: Kernels) -> Iterator[None]:
    """Choose, within a `with` block, which of two functions of one name runs.

    "auto": a kernel where one supports the arguments, else the reference. "reference": the reference. "cpu", "cuda":
    the kernel for that device, or a BackendError where there is none.
    """
    if kernels not in get_args(Kernels):
        raise BackendError(f"use_kernels: kernels is one of {', '.join(get_args(Kernels))}, got {kernels!r}.")
    token = _choice.set(kernels)
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
            if device_of(array) == "cuda":
                return "cuda"
    return "cpu"


_all: list["Dispatched[..., Any]"] = []


@contextmanager
def only_kernels_of(*topics: str) -> Iterator[None]:
    """Let only the ops of some topics ("linear", "norm") have kernels, within a `with` block and for all threads.

    The other ops run their references. This serves measurements of what each kernel gains.
    """
    hidden = [(kernel, kernel._found) for kernel in _all if kernel.topic not in topics]
    for kernel, _ in hidden:
        kernel._found = dict.fromkeys(PACKAGES)
    try:
        yield
    finally:
        for kernel, found in hidden:
            kernel._found = found


class Dispatched(Generic[P, R]):
    """A readable function that knows its kernels. Made by `@dispatched`.

    reference: the reference, always callable.
    """

    __name__: str

    def __init__(self, reference: Callable[P, R]) -> None:
        self.reference = reference
        self.topic = reference.__module__.rpartition(".")[2]
        self._found: dict[str, Callable[P, R] | None] = {}
        _all.append(self)
        update_wrapper(self, reference)

    def kernel(self, device: str) -> Callable[P, R] | None:
        """Return the kernel for a device ("cpu" or "cuda"), or None."""
        if device not in self._found:
            name = f"{__package__}.{PACKAGES[device]}.{self.topic}"
            module = import_module(name) if package_fault(device) is None and find_spec(name) else None
            self._found[device] = getattr(module, self.__name__, None)
        return self._found[device]

    def has_kernel(self, array: Array) -> bool:
        """Return whether there is a kernel for arrays on this one's device that `use_kernels` lets run."""
        return _choice.get() != "reference" and self.kernel(device_of(array)) is not None

    def runs(self, device: Device) -> str:
        """Return what a call on arrays of a device runs: "cpu" or "cuda" for a kernel, or "reference"."""
        choice = _choice.get()
        wanted = device if choice == "auto" else choice
        return wanted if wanted != "reference" and self.kernel(wanted) else "reference"

    def kernel_of(self, *args: P.args, **kwargs: P.kwargs) -> Callable[P, R] | None:
        """The kernel that a call with these arguments runs; None where it runs the reference."""
        choice = _choice.get()
        if choice == "reference":
            return None
        kernel = self.kernel(_device_of_call(args, kwargs) if choice == "auto" else choice)
        return kernel if kernel is not None and kernel.supports(*args, **kwargs) else None  # type: ignore[attr-defined]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the kernel where it supports, else the reference, as `use_kernels` says."""
        kernel = self.kernel_of(*args, **kwargs)
        if kernel is not None:
            return kernel(*args, **kwargs)
        choice = _choice.get()
        if choice in ("auto", "reference"):
            return self.reference(*args, **kwargs)
        missing = package_fault(choice) or "the op has no kernel there"
        reason = "the op has a kernel that does not serve these arguments" if self.kernel(choice) else missing
        raise BackendError(
            f"{self.__name__}: the kernel for {choice!r} was asked for by use_kernels({choice!r}), but {reason}. "
            "Use use_kernels('auto') to fall back on the reference."
        )


def dispatched(reference: Callable[P, R]) -> Dispatched[P, R]:
    """Let a kernel of the same name stand in for this readable function."""
    return Dispatched(reference)
