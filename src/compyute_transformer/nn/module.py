"""Module: parameters, a forward pass, and a backward pass that is its mirror. PyTorch's names, plain arrays in and out.

A leaf module calls an op and keeps what the op's backward needs:

    class Linear(Module):
        def forward(self, x):
            y, saved = linear_forward(x, self.weight.data, self.bias.data)
            self.save_for_backward(saved)
            return y

        def backward(self, dy):
            dx, dweight, dbias = linear_backward(dy, self.pop_saved())
            self.weight.accumulate(dweight)
            self.bias.accumulate(dbias)
            return dx

A composite module calls its parts, and its backward calls their backwards in reverse. What is kept lies on a
last-in-first-out stack, so a part may run twice in one forward. In `eval()` nothing is kept: a forward that only looks,
to validate say, belongs there, or the next backward would take it for its own.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

from ..arrays import Array, Device, array_module, device_of, to_device, to_numpy
from ..errors import BackwardError, DtypeError, ShapeError, StateError

__all__ = ["Flat", "Module", "ModuleList", "Observer", "Parameter", "observe"]

Phase = Literal["forward", "backward"]


class Parameter:
    """An array that is learned, and the sum of the gradients it was given since they were last zeroed.

    data: the values. grad: the gradient, of the same shape and dtype; None before the first one arrives, unless the
    parameter lies in a flat buffer (see `Flat`), where it is always an array. flat: that buffer, if any.
    """

    def __init__(self, data: Array) -> None:
        self.data = data
        self.grad: Array | None = None
        self.flat: Flat | None = None

    def accumulate(self, gradient: Array | None) -> None:
        """Add to the gradient. A parameter used twice, or in two half batches, gets the sum."""
        if gradient is None or gradient.shape != self.data.shape:
            came = None if gradient is None else tuple(gradient.shape)
            raise ShapeError(f"Parameter: a gradient has the parameter's shape {tuple(self.data.shape)}, got {came}.")
        if self.grad is None:
            self.grad = gradient.copy()
        else:
            self.grad += gradient

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the data."""
        return self.data.shape

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.data.size

    def __repr__(self) -> str:
        return f"Parameter(shape={tuple(self.shape)}, dtype={self.data.dtype})"


class Flat:
    """All parameters of a model in one array, and all their gradients in another; each parameter keeps views.

    The optimizer, the clip and the checkpoint each touch one array instead of hundreds. Matrices come first: they are
    decayed, vectors (biases, the scales of norms) are not.

    data, grad: the two arrays, one axis. num_decayed: how many elements, from the start, belong to matrices.
    """

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        given = list(parameters)
        self.parameters = [p for p in given if p.data.ndim >= 2] + [p for p in given if p.data.ndim < 2]
        self.num_decayed = sum(p.size for p in given if p.data.ndim >= 2)
        xp = array_module(*(p.data for p in given))
        dtypes = {p.data.dtype for p in given}
        if len(dtypes) > 1:
            raise StateError(f"Flat: the parameters of one model have one dtype, got {sorted(map(str, dtypes))}.")
        size = sum(p.size for p in given)
        self.data = xp.empty(size, dtype=dtypes.pop() if dtypes else np.float32)
        self.grad = xp.zeros_like(self.data)
        start = 0
        for parameter in self.parameters:
            part, shape = slice(start, start + parameter.size), parameter.shape
            self.data[part] = parameter.data.reshape(-1)
            if parameter.grad is not None:
                self.grad[part] = parameter.grad.reshape(-1)
            parameter.data, parameter.grad = self.data[part].reshape(shape), self.grad[part].reshape(shape)
            parameter.flat = self
            start = part.stop

    def holds(self, parameters: Iterable[Parameter]) -> bool:
        """Whether these are the parameters it was made of, and their data still lie in it."""
        given = list(parameters)
        return len(given) == len(self.parameters) and all(p.flat is self and p.data.base is self.data for p in given)


class Observer:
    """Sees every module's forward and backward. Override what you need: a trace, a profiler, a check.

    `path` names the module as the state dict does ("blocks.0.attention"; "" for the observed module itself).
    """

    def before(self, path: str, module: "Module", phase: Phase, inputs: tuple[Any, ...]) -> None:
        """Called before a module's forward or backward runs."""

    def after(self, path: str, module: "Module", phase: Phase, inputs: tuple[Any, ...], output: Any) -> None:
        """Called with its result."""


@contextmanager
def observe(module: "Module", observer: Observer) -> Iterator[None]:
    """Let the observer see a module and everything below it, within a `with` block."""
    watched = [(inner, (path, observer)) for path, inner in module.named_modules()]
    for inner, entry in watched:
        inner._observers = (*inner._observers, entry)
    try:
        yield
    finally:
        for inner, entry in watched:
            inner._observers = tuple(kept for kept in inner._observers if kept is not entry)


def _observed(function: Callable[..., Any], phase: Phase) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(self: "Module", *args: Any, **kwargs: Any) -> Any:
        if not self._observers:  # the usual case costs one attribute
            return function(self, *args, **kwargs)
        observers = self._observers
        for path, observer in observers:
            observer.before(path, self, phase, args)
        output = function(self, *args, **kwargs)
        for path, observer in observers:
            observer.after(path, self, phase, args, output)
        return output

    return wrapped


class Module:
    """The base of everything that has parameters. Parameters and modules are registered by assignment.

    training: whether forwards save for a backward, and dropout drops; see `train` and `eval`.
    """

    training: bool = True
    _observers: tuple[tuple[str, Observer], ...] = ()
    _name: str = ""
    _parent: "Module | None" = None
    PHASES: ClassVar[tuple[Phase, ...]] = ("forward", "backward")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for phase in Module.PHASES:  # once for each class, so that no subclass can forget it
            if phase in cls.__dict__:
                setattr(cls, phase, _observed(cls.__dict__[phase], phase))

    def __init__(self) -> None:
        self._parameters: dict[str, Parameter] = {}
        self._modules: dict[str, Module] = {}
        self._saved: list[Any] = []
        self._flat: Flat | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        is_parameter, is_module = isinstance(value, Parameter), isinstance(value, Module) and name != "_parent"
        if is_parameter:
            self._parameters[name] = value
        elif is_module:
            self._modules[name] = value
            value._name, value._parent = name, self
        if not is_parameter and name in self.__dict__.get("_parameters", ()):  # `self.bias = None` takes the bias away
            del self._parameters[name]
        if not is_module and name in self.__dict__.get("_modules", ()):
            del self._modules[name]
        object.__setattr__(self, name, value)

    # --- the two passes ---

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the output; in training, save what `backward` needs."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, *args: Any, **kwargs: Any) -> Any:
        """Turn the gradient of the output into that of the input, and add to the gradients of the parameters."""
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run `forward`."""
        return self.forward(*args, **kwargs)

    def save_for_backward(self, saved: Any) -> None:
        """Put what the backward needs on top of the stack; in `eval()` nothing is kept."""
        if self.training:
            self._saved.append(saved)

    def pop_saved(self) -> Any:
        """Take from the stack what the latest forward saved that no backward has taken.

        Raises:
            BackwardError: there is nothing.
        """
        if not self._saved:
            raise BackwardError(
                f"{self.path or type(self).__name__}: a backward needs the forward it belongs to, and none is left. "
                "Run forward first, in training mode (module.train()), once for each backward."
            )
        return self._saved.pop()

    def clear_saved(self) -> None:
        """Drop what forwards saved for backwards that will not come."""
        for module in self.modules():
            module._saved.clear()

    # --- the tree ---

    @property
    def path(self) -> str:
        """The module's place in the tree, "blocks.0.attention"; "" for the root."""
        above = self._parent.path if self._parent is not None else ""
        return f"{above}.{self._name}" if above else self._name

    def modules(self) -> Iterator["Module"]:
        """Itself and all modules below, each once."""
        seen, waiting = set(), [self]
        while waiting:
            module = waiting.pop()
            if id(module) not in seen:
                seen.add(id(module))
                waiting.extend(reversed(module._modules.values()))
                yield module

    def named_modules(self, prefix: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, "Module"]]:
        """Itself and all modules below, with their paths from here, each once: a shared one by the first of its names.

        seen: the ids of modules to pass over; it gathers those that were met.
        """
        seen = set() if seen is None else seen
        if id(self) in seen:
            return
        seen.add(id(self))
        yield prefix, self
        for name, module in self._modules.items():
            yield from module.named_modules(f"{prefix}.{name}" if prefix else name, seen)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every parameter with its path, each once: tied weights go by the first of their names."""
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, parameter in module._parameters.items():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield f"{path}.{name}" if path else name, parameter

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter, each once."""
        return (parameter for _, parameter in self.named_parameters())

    @property
    def num_parameters(self) -> int:
        """The number of learned elements, tied weights counted once."""
        return sum(parameter.size for parameter in self.parameters())

    @property
    def flat(self) -> Flat:
        """All parameters in one array and their gradients in another, made at the first call.

        Made anew when the parameters are no longer those it was made of: a head was replaced, the module was copied.

        Raises:
            StateError: they lie in the buffer of an enclosing module already.
        """
        if self._flat is None or not self._flat.holds(self.parameters()):
            if any(parameter.flat not in (None, self._flat) for parameter in self.parameters()):
                raise StateError(
                    f"{self.path or type(self).__name__}.flat: some parameters lie in another module's flat buffer. "
                    "Ask the outermost module for its flat."
                )
            self._flat = Flat(self.parameters())
        return self._flat

    # --- state ---

    def train(self) -> Self:
        """Save for backwards, drop at random."""
        return self._set_training(True)

    def eval(self) -> Self:
        """Save nothing, drop nothing."""
        return self._set_training(False)

    def _set_training(self, training: bool) -> Self:
        for module in self.modules():
            module.training = training
        return self

    def zero_grad(self) -> None:
        """Forget the gradients gathered so far."""
        if self._flat is not None and self._flat.holds(self.parameters()):
            self._flat.grad.fill(0)
            return
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.fill(0)

    def to(self, device: Device | None = None, dtype: Any = None) -> Self:
        """Move the parameters to a device and convert them to a float dtype; flat buffers are laid anew.

        Gradients are dropped. An optimizer made before holds the old buffers: make it after.

        Raises:
            BackendError: the device cannot be used. DtypeError: the dtype holds no floats.
            StateError: parameters lie in the flat buffer of an enclosing module, which would lose them.
        """
        if dtype is not None and np.dtype(dtype).kind not in "fV":  # V: bfloat16, which NumPy takes for raw bytes
            raise DtypeError(f"{type(self).__name__}.to: parameters hold floats, got dtype {np.dtype(dtype)}.")
        flattened = [module for module in self.modules() if module._flat is not None]
        own = list(self.parameters())
        if any(p.flat is not None and all(p.flat is not module._flat for module in flattened) for p in own):
            raise StateError(
                f"{self.path or type(self).__name__}.to: some parameters lie in another module's flat buffer. "
                "Move the outermost module."
            )
        moved = [p.data if device is None else to_device(p.data, device) for p in own]
        for parameter, data in zip(own, moved, strict=True):
            parameter.data, parameter.grad, parameter.flat = data.astype(dtype or data.dtype, copy=True), None, None
        for module in flattened:
            module._flat = None
            module._flat = module.flat
        return self

    def state_dict(self) -> dict[str, Array]:
        """A copy of every parameter, as NumPy's, by path: a snapshot that training does not change."""
        return {path: np.array(to_numpy(parameter.data)) for path, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Copy values in, converted to each parameter's dtype. All fit, or none is loaded.

        Raises:
            StateError: with everything that is missing, unexpected, of another shape, or not a real number.
        """
        own = dict(self.named_parameters())
        given = {path: to_numpy(array) for path, array in state.items()}
        faults = [f"missing: {path} {tuple(own[path].shape)}" for path in own if path not in given]
        faults += [f"unexpected: {path} {given[path].shape}" for path in given if path not in own]
        for path in (path for path in own if path in given):
            if own[path].shape != given[path].shape:
                faults.append(f"other shape: {path} is {tuple(own[path].shape)}, got {given[path].shape}")
            if given[path].dtype.kind not in "fiuV":
                faults.append(f"not real numbers: {path} is {own[path].data.dtype}, got {given[path].dtype}")
        if faults:
            raise StateError(
                f"{type(self).__name__}.load_state_dict: the state must hold exactly this module's parameters.\n  "
                + "\n  ".join(faults)
                + "\nBuild the module with the configuration that was saved beside the state."
            )
        for path, parameter in own.items():
            parameter.data[...] = to_device(given[path].astype(parameter.data.dtype), self.device)

    def save(self, path: str | Path) -> None:
        """Write every parameter to a safetensors file, which `load` reads.

        Raises:
            StateError: the file cannot be written.
        """
        import safetensors
        import safetensors.numpy

        try:
            safetensors.numpy.save_file(self.state_dict(), str(path))
        except (OSError, safetensors.SafetensorError) as error:
            raise StateError(
                f"{type(self).__name__}.save: {path} must be a file that can be written; it cannot: {error}. "
                "Make its folder first, or choose another."
            ) from error

    def load(self, path: str | Path) -> None:
        """Read what `save` wrote. All parameters fit, or none is loaded.

        Raises:
            StateError: the file cannot be read, or is of another model; see `load_state_dict`.
        """
        import safetensors
        import safetensors.numpy

        try:
            state = safetensors.numpy.load_file(str(path))
        except (OSError, safetensors.SafetensorError) as error:
            raise StateError(
                f"{type(self).__name__}.load: {path} must be a safetensors file; it cannot be read: {error}. "
                "Give one that model.save(path) wrote."
            ) from error
        self.load_state_dict(state)

    @property
    def device(self) -> Device:
        """Where the parameters live; "cpu" for a module without."""
        return next((device_of(parameter.data) for parameter in self.parameters()), "cpu")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_parameters={self.num_parameters})"

    def __str__(self) -> str:
        """The tree: a line for each module, with the shapes of its own parameters."""
        lines = []
        for path, module in self.named_modules():
            own = ", ".join(f"{name} {tuple(p.shape)}" for name, p in module._parameters.items())
            indent = "  " * (path.count(".") + bool(path))
            head = f"{path.rpartition('.')[2]}: " if path else ""
            lines.append(f"{indent}{head}{type(module).__name__}{own and f'({own})'}")
        return "\n".join([*lines, f"{self.num_parameters:,} parameters"])


class ModuleList(Module):
    """Modules in a row, registered as "0", "1", …; whoever holds the list runs them."""

    def __init__(self, modules: Iterable[Module]) -> None:
        super().__init__()
        for index, module in enumerate(modules):
            setattr(self, str(index), module)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules.values())

    def __reversed__(self) -> Iterator[Any]:
        return reversed(self._modules.values())

    def __getitem__(self, index: int) -> Any:
        return list(self._modules.values())[index]

    def __len__(self) -> int:
        return len(self._modules)
