"""Dispatch: an op runs its reference, or a kernel that is registered for it and supports the arguments.

An op is written once, readably, for any array library. A kernel computes the same for one device, faster:

    @dispatched(validate=check_layer_norm)                      # in ops/norm.py
    def layer_norm_forward(x, weight, bias=None, eps=1e-5): ...

    @kernel_for(norm.layer_norm_forward, supports=...)          # in cpu/norm.py
    def layer_norm_forward(x, weight, bias=None, eps=1e-5): ...

    layer_norm_forward(x, weight, bias)               # the kernel where one supports the arguments, else the reference
    layer_norm_forward.reference(x, weight, bias)     # always the reference
    layer_norm_forward.kernel("cpu")                  # the kernel itself
    with use_kernels("reference"): ...                # references only
    with use_kernels("cpu"): ...                      # kernels, or an error where there is none

The arguments are validated once, here, before anything looks at them: a kernel and its reference refuse the same calls
with the same message, and neither validates again. The first call of an op imports the module of its topic in `cpu/` or
`gpu/`, whose kernels register themselves.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import update_wrapper, wraps
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from typing import Any, Generic, Literal, ParamSpec, TypeVar, get_args, overload

import numpy as np

from ._arguments import check_call
from .arrays import Device, device_of, gpu_fault
from .errors import BackendError, InputError

__all__ = [
    "Dispatched",
    "dispatched",
    "intercept",
    "is_intercepted",
    "kernel_for",
    "kernels_of",
    "no_kernels_after_fork",
    "only_kernels_of",
    "output_of",
    "package_fault",
    "runs_kernels",
    "use_kernels",
]

Kernels = Literal["auto", "reference", "cpu", "cuda"]
PACKAGES = {"cpu": "cpu", "cuda": "gpu"}  # the package that holds the kernels of each device

P = ParamSpec("P")
R = TypeVar("R")
Y = TypeVar("Y")
K = TypeVar("K", bound=Callable[..., Any])


def package_fault(device: str) -> str | None:
    """Return why no kernel for a device ("cpu" or "cuda") can run here, in one sentence; None where they can."""
    if device == "cuda":
        return gpu_fault()
    if _fork_fault is not None:
        return _fork_fault
    if find_spec("numba") is None:
        return "Numba is not installed: pip install numba"
    try:
        numba = import_module("numba")
    except Exception as error:  # Numba refuses versions of NumPy and Python that it does not know
        return f"Numba is installed but cannot be imported ({type(error).__name__}: {error})"
    if numba.config.DISABLE_JIT:
        return "NUMBA_DISABLE_JIT is set, so that no kernel is compiled"
    if numba.config.THREADING_LAYER != "default":
        try:
            numba.get_num_threads()  # starts the layer
        except ValueError as error:
            reason = " ".join(str(error).split())
            return f"the threading layer that is set, {numba.config.THREADING_LAYER!r}, cannot be used ({reason})"
    return None


def runs_kernels(device: Device) -> bool:
    """Return whether ops on a device may run kernels: there are some, and `use_kernels` lets them run."""
    return _choice.get() != "reference" and package_fault(device) is None


def kernels_of(device: Device, topic: str) -> Any:
    """Return the module of a topic's kernels for a device, for what is no op: a captured step, an optimizer on it."""
    return import_module(f"{__package__}.{PACKAGES[device]}.{topic}")


_fork_fault: str | None = None


def no_kernels_after_fork() -> None:
    """Refuse to run kernels from now on, in a process that was forked after its parent had started a pool of threads.

    References would compute the same to seven digits only, and slowly: nobody would find out why.
    """
    global _fork_fault
    _fork_fault = (
        "this process was forked after kernels had run, and their threads are not in it: "
        "start processes with multiprocessing.get_context('spawn')"
    )


_said: set[str] = set()


def _say_once(fault: str) -> None:
    if fault not in _said:
        _said.add(fault)
        message = "Kernels are off, ops run their references, which are slower: %s."
        logging.getLogger("compyute_transformer").warning(message, fault)


_choice: ContextVar[Kernels] = ContextVar("kernels", default="auto")


@contextmanager
def use_kernels(kernels: Kernels) -> Iterator[None]:
    """Choose, within a `with` block, whether ops run their kernels or their references.

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
    """Return where the arrays of a call live. Those a forward saved count too: a loss's dy may be a plain number."""
    for value in (*args, *kwargs.values()):
        for array in value if isinstance(value, tuple) else (value,):
            if device_of(array) == "cuda":
                return "cuda"
    return "cpu"


def _behaved(value: Any, copy: bool) -> Any:
    """Return an array as one that is aligned and may be written to, if so in memory of its own; anything else as it is.

    Numba would compile a kernel again for each mixture of arrays that may and may not be written to: some 20 seconds,
    for an array that was mapped from a file. So kernels support the others only. They write to none of their arguments.
    """
    if type(value) is not np.ndarray or value.flags.behaved:
        return value
    if copy or not value.flags.aligned or value.dtype.hasobject:
        return value.copy()
    return np.asarray(_Writable(value))


class _Writable:
    """The memory of an array, which it keeps alive, without the word that nobody may write to it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        interface = array.__array_interface__
        self.__array_interface__ = interface | {"data": (interface["data"][0], False)}


_all: list["Dispatched[..., Any]"] = []

Interceptor = Callable[["Dispatched[..., Any]", tuple[Any, ...], dict[str, Any]], Any]
_interceptor: ContextVar[Interceptor | None] = ContextVar("interceptor", default=None)


@contextmanager
def intercept(interceptor: Interceptor) -> Iterator[None]:
    """Hand every call of an op to a function, within a `with` block and for the calling thread only.

    interceptor: takes the op, its arguments and its keyword arguments, and returns the result of the call, which
    `op.run(*args, **kwargs)` computes. The calls that a reference makes of other ops are handed on too; a kernel makes
    none.
    """
    token = _interceptor.set(interceptor)
    try:
        yield
    finally:
        _interceptor.reset(token)


def is_intercepted() -> bool:
    """Return whether `intercept` hands the calls of ops to a function, which is to see each of them."""
    return _interceptor.get() is not None


@contextmanager
def only_kernels_of(*topics: str) -> Iterator[None]:
    """Let only the ops of some topics ("linear", "norm") have kernels, within a `with` block and for all threads.

    The other ops run their references. Benchmarks measure with it what each kernel gains.
    """
    others = [op for op in _all if op.topic not in topics and not op._hidden]
    for op in others:
        op._hidden = True
    try:
        yield
    finally:
        for op in others:
            op._hidden = False


class Dispatched(Generic[P, R]):
    """A readable function with its validation and its kernels. Made by `@dispatched`.

    topic: the name of the file it stands in, which is the name of the files of its kernels.
    """

    __name__: str
    __qualname__: str

    def __init__(
        self,
        reference: Callable[P, R],
        validate: Callable[..., object] | None = None,
        in_place: bool = False,
        overwritten: bool = False,
    ) -> None:
        self.topic = reference.__module__.rpartition(".")[2]
        self._validate, self._in_place, self._overwritten = validate, in_place, overwritten
        self._kernels: dict[str, Callable[P, R] | None] = {}
        self._hidden = False
        self._wrapped: dict[Callable[P, R], Callable[P, R]] = {}  # what each validated function validates for
        _all.append(self)
        update_wrapper(self, reference)
        self.reference = reference

    def __reduce__(self) -> str:
        """Copy and pickle by name, as functions are."""
        return self.__qualname__

    @property
    def reference(self) -> Callable[P, R]:
        """The readable function, always callable, validated like the op itself. Tests may set another."""
        return self._reference

    @reference.setter
    def reference(self, function: Callable[P, R]) -> None:
        function = self._wrapped.get(function, function)

        @wraps(function)
        def validated(*args: P.args, **kwargs: P.kwargs) -> R:
            self._check(args, kwargs)
            return function(*args, **kwargs)

        self._wrapped[validated] = function
        self._trusted, self._reference = function, validated

    def _check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._validate is None:
            return
        try:
            self._validate(*args, **kwargs)
        except TypeError as error:
            if not isinstance(error, InputError):
                check_call(self._trusted.__name__, self._trusted, args, kwargs)
            raise

    def kernel(self, device: str) -> Callable[P, R] | None:
        """Return the kernel for a device ("cpu" or "cuda"), or None. It trusts its arguments."""
        if device == "cuda" and package_fault(device) is not None:
            return None  # a GPU may be simulated for a while, and be gone again
        if device not in self._kernels:
            name = f"{__package__}.{PACKAGES[device]}.{self.topic}"
            fault = package_fault(device)
            if fault is None and find_spec(name):
                import_module(name)
            elif fault is not None and device == "cpu":
                _say_once(fault)
            self._kernels.setdefault(device, None)
        return None if self._hidden else self._kernels[device]

    def has_kernel(self, array: object) -> bool:
        """Return whether there is a kernel for arrays on this one's device that `use_kernels` lets run."""
        return _choice.get() != "reference" and self.kernel(device_of(array)) is not None

    def runs(self, device: Device) -> str:
        """Return what a call on arrays of a device runs: "cpu" or "cuda" for a kernel, or "reference"."""
        choice = _choice.get()
        wanted = device if choice == "auto" else choice
        return wanted if wanted != "reference" and self.kernel(wanted) else "reference"

    def kernel_of(self, *args: P.args, **kwargs: P.kwargs) -> Callable[P, R] | None:
        """Return the kernel that a call with these valid arguments runs; None where it runs the reference."""
        kernel = self._kernel_for(args, kwargs)
        if kernel is None or not kernel.supports(*args, **kwargs):  # type: ignore[attr-defined]
            return None
        return kernel

    def _kernel_for(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[P, R] | None:
        """Return the kernel for the device of a call, whatever it supports, if `use_kernels` lets it run."""
        choice = _choice.get()
        if choice == "reference":
            return None
        if choice == "auto":
            if _fork_fault is not None:
                raise BackendError(
                    f"{self.__name__}: {_fork_fault}. Or compute without kernels: with use_kernels('reference')."
                )
            choice = "cpu" if "cupy" not in sys.modules else _device_of_call(args, kwargs)
        return self.kernel(choice)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Validate the arguments, then run the kernel or the reference, as `use_kernels` says."""
        interceptor = _interceptor.get()
        if interceptor is not None:
            result: R = interceptor(self, args, kwargs)
            return result
        return self.run(*args, **kwargs)

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute a call that nobody intercepts: see `intercept`."""
        self._check(args, kwargs)
        kernel = self._kernel_for(args, kwargs)
        if kernel is not None:
            supports: Callable[..., bool] = kernel.supports  # type: ignore[attr-defined]
            if supports(*args, **kwargs):
                return kernel(*args, **kwargs)
            again = args if self._in_place else tuple(_behaved(value, self._overwritten) for value in args)
            changed = any(one is not other for one, other in zip(args, again, strict=True))
            if changed and supports(*again, **kwargs):
                return kernel(*again, **kwargs)
        if (choice := _choice.get()) in PACKAGES:
            raise self._no_kernel(choice)
        return self._trusted(*args, **kwargs)

    def _no_kernel(self, device: str) -> BackendError:
        """Return the error of a call whose kernel was asked for, where there is none that computes it."""
        missing = package_fault(device) or "the op has no kernel there"
        reason = "the op has a kernel that does not support these arguments" if self.kernel(device) else missing
        return BackendError(
            f"{self.__name__}: the kernel for {device!r} was asked for by use_kernels({device!r}), but {reason}. "
            "Use use_kernels('auto') to fall back on the reference."
        )


@overload
def dispatched(reference: Callable[P, R], /) -> Dispatched[P, R]: ...


@overload
def dispatched(
    *, validate: Callable[..., object], in_place: bool = False, overwritten: bool = False
) -> Callable[[Callable[P, R]], Dispatched[P, R]]: ...


def dispatched(
    reference: Any = None,
    /,
    *,
    validate: Callable[..., object] | None = None,
    in_place: bool = False,
    overwritten: bool = False,
) -> Any:
    """Make an op of a readable function: kernels may be registered for it, and its arguments are validated.

    validate: a function of the op's arguments that raises an InputError for those the op does not take.
    in_place: whether it writes its result into its arguments. overwritten: whether the op's backward may write over
    what was saved of them; one that may only be read is then copied for a kernel.
    """
    if reference is not None:
        return Dispatched(reference)
    return lambda function: Dispatched(function, validate, in_place, overwritten)


def kernel_for(op: Dispatched[..., Any], *, supports: Callable[..., bool], device: Device = "cpu") -> Callable[[K], K]:
    """Register a function as the kernel of an op on a device.

    supports: takes the op's arguments, which are valid, and says whether the kernel computes them; the reference
    computes the others. It stays readable as `kernel.supports`.
    """

    def register(kernel: K) -> K:
        kernel.supports = supports  # type: ignore[attr-defined]
        op._kernels[device] = kernel
        return kernel

    return register


def output_of(name: str, forward: Callable[P, tuple[Y, Any]]) -> Callable[P, Y]:
    """Return the function `name(...)`: the output of a forward, without what the forward saves for its backward."""

    @wraps(forward)
    def output(*args: P.args, **kwargs: P.kwargs) -> Y:
        return forward(*args, **kwargs)[0]

    expected = signature(forward)
    y = (get_args(expected.return_annotation) or (Any,))[0]
    output.__name__ = output.__qualname__ = name
    output.__signature__ = expected.replace(return_annotation=y)  # type: ignore[attr-defined]
    output.__annotations__ = {**output.__annotations__, "return": y}
    summary, _, details = (forward.__doc__ or "").partition("\n")
    note = f"Return y alone. `{forward.__name__}` also returns what its backward needs."
    output.__doc__ = f"{summary}\n\n    {note}\n{details}"
    return output
