"""Module: parameters, a forward pass, and a backward pass that is its mirror. PyTorch's names, plain arrays in and out.

A leaf module calls an op and saves what the op's backward needs:

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

A composite module calls its parts, and its backward calls their backwards in reverse. What is saved lies on a
last-in-first-out stack, so a part may run twice in one forward. In `eval()` nothing is saved: a forward that no
backward follows, as in validation, belongs there.
"""

import threading
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ContextDecorator
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np

from .. import _io
from .._arguments import CheckedArguments, check_call
from ..arrays import Array, Device, device_of, to_device, to_numpy
from ..environment.products import fastest_precision
from ..errors import BackwardError, DtypeError, StateError
from ..ops.quantized import is_quantized
from ..optim.flat import FlatBuffer
from ..precision import Precision, check_precision
from .init import are_skipped
from .observer import Observer, Phase, observe, observed
from .parameter import Parameter

__all__ = ["IncompatibleKeys", "Module", "ModuleList", "Observer", "Parameter", "evaluating", "observe"]

MAX_FORWARDS = 16  # of a model in training mode that no backward followed


class _Thread(threading.local):
    """Whether the calling thread evaluates, whatever mode a module is in."""

    evaluates = False


_thread = _Thread()


class _Evaluating(ContextDecorator):
    """What `evaluating` returns: a generator would take twice as long, and every token that is generated needs one."""

    def _recreate_cm(self) -> Self:
        return type(self)()  # of a decorated function, each call has one of its own, in its own thread

    def __enter__(self) -> None:
        self.before, _thread.evaluates = _thread.evaluates, True

    def __exit__(self, *_: object) -> None:
        _thread.evaluates = self.before


def evaluating() -> _Evaluating:
    """Let all modules behave as in `eval()` within a `with` block, or a function it decorates, for this thread only.

    Several threads can generate from one model this way, whatever mode it is in.
    """
    return _Evaluating()


class IncompatibleKeys(NamedTuple):
    """The names that `load_state_dict` did not find in the state, and those that the module does not have."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module(CheckedArguments):
    """The base of everything that has parameters. Parameters and modules are registered by assignment.

    training: whether forwards save for a backward, and dropout drops; see `train` and `eval`.
    """

    _training: bool = True
    _observers: tuple[tuple[str, Observer], ...] = ()
    _name: str = ""
    _parent: "Module | None" = None
    _waiting: int = 0  # forwards in training mode that no backward followed, counted at the root
    _trainer: int | None = None  # the thread whose backward is due
    _precision: Precision | None = None
    _looked: bool = False  # whether lists were searched for modules that came into them after they were assigned
    PHASES: ClassVar[tuple[Phase, ...]] = ("forward", "backward")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for phase in Module.PHASES:  # once for each class, so that no subclass can forget it
            if phase in cls.__dict__:
                setattr(cls, phase, observed(cls.__dict__[phase], phase))

    def __init__(self) -> None:
        self._parameters: dict[str, Parameter] = {}
        self._modules: dict[str, Module] = {}
        self._saved: list[Any] = []
        self._flat: FlatBuffer | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        is_parameter, is_module = isinstance(value, Parameter), isinstance(value, Module) and name != "_parent"
        if (is_parameter or is_module) and "_modules" not in self.__dict__:
            raise StateError(
                f"{type(self).__name__}.{name}: super().__init__() runs before parameters and modules are assigned. "
                "Call it first in __init__."
            )
        if not name.startswith("_"):
            self._refuse_hidden(name, value)
        if is_parameter or is_module:
            self._announce(name, value)
        if is_parameter:
            self._parameters[name] = value
            value.owner = (weakref.ref(self), name)
        elif is_module:
            self._modules[name] = value
            value._name, value._parent = name, self
        if not is_parameter and name in self.__dict__.get("_parameters", ()):  # `self.bias = None` takes the bias away
            del self._parameters[name]
        if not is_module and name in self.__dict__.get("_modules", ()):
            del self._modules[name]
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        self._parameters.pop(name, None)
        self._modules.pop(name, None)
        object.__delattr__(self, name)

    def _refuse_hidden(self, name: str, value: Any) -> None:
        """Refuse modules and parameters in a list, tuple or dict, where they would not be trained, moved or saved."""
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        if any(isinstance(entry, Module | Parameter) for entry in inside):
            raise StateError(
                f"{type(self).__name__}.{name}: a {type(value).__name__} hides its modules, which would not be "
                "trained or saved. Use ModuleList(modules), or assign each to a name of its own."
            )

    def _announce(self, name: str, value: "Parameter | Module") -> None:
        """Tell the optimizers of the model that parameters came in, where they would be the only ones not trained."""
        old = self._parameters.get(name) or self._modules.get(name)
        replaced = [] if old is None else [old] if isinstance(old, Parameter) else list(old.parameters())
        root = self.root
        present = [p for p in root.parameters() if p.requires_grad]
        affected = [p for p in replaced if p.optimizers]
        if not affected and present and all(p.optimizers for p in present):
            affected = present
        new = [value] if isinstance(value, Parameter) else list(value.parameters())
        for optimizer in {optimizer for p in affected for optimizer in p.optimizers}:
            for parameter in new:
                optimizer.expect(parameter, root)

    # --- the two passes ---

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the output; in training, save what `backward` needs."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, *args: Any, **kwargs: Any) -> Any:
        """Turn the gradient of the output into that of the input, and add to the gradients of the parameters."""
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run `forward`."""
        try:
            return self.forward(*args, **kwargs)
        except TypeError:
            check_call(type(self).__name__, self.forward, args, kwargs)
            raise

    def _count_forward(self) -> None:
        """Bound what forwards save for backwards that do not come, and refuse a second thread that trains."""
        if not self._looked:
            self._looked = True
            for module in self.modules():
                for name, value in module.__dict__.items():
                    if not name.startswith("_"):
                        module._refuse_hidden(name, value)
        here = threading.get_ident()
        if self._waiting == 0 and self._trainer == here:
            pass  # the usual case, without a walk: what this thread saved, its backwards took
        elif not any(module._saved for module in self.modules()):
            self._waiting, self._trainer = 0, here
        elif self._trainer not in (None, here):
            raise StateError(
                f"{type(self).__name__}: one thread at a time trains a model, got a forward in training mode while "
                "the backward of another thread's forward is due. Call model.eval() to generate, or copy.deepcopy the "
                "model."
            )
        self._waiting += 1
        if self._waiting > MAX_FORWARDS:
            self.clear_saved()
            self._waiting = 1
            warnings.warn(
                f"{type(self).__name__}: {MAX_FORWARDS} forwards in training mode without a backward; what they saved "
                "was dropped. Call model.eval() first to validate or generate.",
                stacklevel=3,
            )

    def save_for_backward(self, saved: Any) -> None:
        """Put what the backward needs on top of the stack; in `eval()` nothing is saved."""
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
    def root(self) -> "Module":
        """The outermost module of the tree."""
        return self if self._parent is None else self._parent.root

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
        seen: set[int] = set()
        for module in self.modules():
            for parameter in module._parameters.values():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield parameter

    def children(self) -> Iterator["Module"]:
        """The modules directly below."""
        return iter(self._modules.values())

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """The modules directly below, with their names."""
        return iter(self._modules.items())

    def apply(self, function: Any) -> Self:
        """Call a function with every module, those below first. Returns itself."""
        for module in reversed(list(self.modules())):
            function(module)
        return self

    @property
    def num_parameters(self) -> int:
        """The number of learned elements, tied weights counted once."""
        return sum(parameter.size for parameter in self.parameters())

    @property
    def flat(self) -> FlatBuffer:
        """All parameters in one buffer, laid at the first call, and laid anew where parameters were replaced or moved.

        Raises:
            StateError: they lie in the buffer of an enclosing module, or differ in dtype.
        """
        own = list(self.parameters())
        if self._flat is None or not self._flat.holds_exactly(own):
            known = {id(parameter) for parameter in own}
            buffers = {id(p.place.buffer): p.place.buffer for p in own if p.place is not None}
            outer = [
                b for b in buffers.values() if b is not self._flat and any(id(p) not in known for p in b.parameters)
            ]
            if outer and self._parent is not None:
                raise StateError(
                    f"{self.path or type(self).__name__}.flat: some parameters lie in the flat buffer of another "
                    "module. Ask the outermost module for its flat."
                )
            self._flat = FlatBuffer(own)
        return self._flat

    def lay_flat(self) -> None:
        """Lay all parameters in one buffer, unless other weights take the place of the initial ones right after."""
        if not are_skipped():
            _ = self.flat

    # --- state ---

    @property
    def training(self) -> bool:
        """Whether forwards save for a backward, and dropout drops; see `train`, `eval` and `evaluating`."""
        return self._training and not _thread.evaluates

    @training.setter
    def training(self, training: bool) -> None:
        self._training = training

    def train(self, mode: bool = True) -> Self:
        """Save for backwards and drop at random; with mode False, as `eval`.

        Raises:
            StateError: weights are quantized, which have no backward.
        """
        quantized: Any = next((p.data for p in self.parameters() if is_quantized(p.data)), None) if mode else None
        if quantized is not None:
            raise StateError(
                f"{type(self).__name__}.train: weights in {quantized.kind} are for inference. "
                "Load the model without weights= to train it."
            )
        for module in self.modules():
            module._training = bool(mode)
        return self

    @property
    def precision(self) -> Precision | None:
        """The precision of its matrix products and of those of all modules below; None: that of `use_precision`.

        Setting it sets that of all modules below too. "auto" sets the fastest of this machine: bfloat16 on a GPU, and
        on a CPU where it is measured to be faster than float32.

        Raises:
            ConfigError: there is no such precision.
        """
        return self._precision

    @precision.setter
    def precision(self, precision: Precision | Literal["auto"] | None) -> None:
        if precision == "auto":
            precision = fastest_precision(self.device)
        if precision is not None:
            check_precision(f"{type(self).__name__}.precision", precision, ("auto", None))
        for module in self.modules():
            module._precision = precision

    def eval(self) -> Self:
        """Save nothing, drop nothing."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze all parameters (False), or train them (True)."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients gathered so far, or fill them with zeros."""
        for parameter in self.parameters():
            parameter.zero_grad(set_to_none)

    def to(self, device: Device | None = None, dtype: Any = None) -> Self:
        """Move parameters and gradients to a device and convert them to a float dtype. An optimizer follows by itself.

        What is there already stays where it is, as weights do that are mapped from a file.

        Raises:
            BackendError: the device cannot be used. DtypeError: the dtype holds no floats.
        """
        if device is not None and not isinstance(device, str):  # to(dtype), as in PyTorch
            device, dtype = None, device
        if dtype is not None and np.dtype(dtype).kind not in "fV":  # V: bfloat16, which NumPy takes for raw bytes
            raise DtypeError(f"{type(self).__name__}.to: parameters hold floats, got dtype {np.dtype(dtype)}.")

        def moved(array: Any) -> Any:
            if is_quantized(array):
                if device not in (None, "cpu") or (dtype is not None and dtype != array.dtype):
                    raise DtypeError(
                        f"{type(self).__name__}.to: weights in {array.kind} stay on the CPU as they are. "
                        "Load the model without weights= to move or convert it."
                    )
                return array
            there = array if device is None else to_device(array, device)
            return there.astype(dtype or there.dtype, copy=True)

        own = list(self.parameters())
        # `is None`: to NumPy, the dtype float64 equals None
        if all(device in (None, device_of(p.data)) and (dtype is None or p.dtype == dtype) for p in own):
            return self
        new = [(moved(p.data), None if p.grad is None else moved(p.grad)) for p in own]
        for parameter, (data, grad) in zip(own, new, strict=True):
            parameter.data, parameter.grad = data, grad
        return self

    def state_dict(self) -> dict[str, Array]:
        """A copy of every parameter, as NumPy's, by path: a snapshot that training does not change."""
        return {path: np.array(to_numpy(parameter.data)) for path, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Array], strict: bool = True) -> IncompatibleKeys:
        """Copy values in, converted to each parameter's dtype. All fit, or none is loaded.

        strict: whether missing and unexpected names are refused; with False they are returned.

        Raises:
            StateError: with everything that is missing, unexpected, of another shape, or not a real number.
        """
        own = dict(self.named_parameters())
        given = {path: to_numpy(array) for path, array in state.items()}
        keys = IncompatibleKeys(
            [path for path in own if path not in given], [path for path in given if path not in own]
        )
        faults = []
        if strict:
            faults += [f"missing: {path} {tuple(own[path].shape)}" for path in keys.missing_keys]
            faults += [f"unexpected: {path} {given[path].shape}" for path in keys.unexpected_keys]
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
            if path in given:
                parameter.data[...] = to_device(given[path].astype(parameter.data.dtype), device_of(parameter.data))
        return keys

    def save(self, path: str | Path) -> None:
        """Write every parameter to a safetensors file, which `load` reads.

        Raises:
            StateError: the file cannot be written.
        """
        try:
            _io.write_arrays(path, self.state_dict())
        except OSError as error:
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

    @property
    def dtype(self) -> Any:
        """The dtype of the parameters, as the first of them has it; None for a module without."""
        return next((parameter.dtype for parameter in self.parameters()), None)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle takes along: neither the enclosing module, nor buffers, nor what is saved."""
        left_out = ("_parent", "_name", "_flat", "_saved", "_observers", "_waiting", "_trainer")
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _flat=None, _saved=[])
        for name, parameter in self._parameters.items():
            parameter.owner = (weakref.ref(self), name)
        for name, module in self._modules.items():
            module.__dict__.update(_name=name, _parent=self)

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

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def append(self, module: Module) -> Self:
        """Add a module at the end."""
        return self.extend([module])

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end."""
        for module in modules:
            self._set(len(self), module)
        return self

    def insert(self, index: int, module: Module) -> None:
        """Put a module before another one; those after it move up by one."""
        modules = list(self)
        modules.insert(index, module)
        for position, each in enumerate(modules):
            if self._modules.get(str(position)) is not each:
                self._set(position, each)

    def _set(self, index: int, module: Module) -> None:
        if not isinstance(module, Module):
            raise StateError(f"ModuleList: every element is a Module, got {type(module).__name__}.")
        setattr(self, str(index), module)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules.values())

    def __reversed__(self) -> Iterator[Any]:
        return reversed(self._modules.values())

    def __getitem__(self, index: int) -> Any:
        return list(self._modules.values())[index]

    def __setitem__(self, index: int, module: Module) -> None:
        self._set(range(len(self))[index], module)

    def __len__(self) -> int:
        return len(self._modules)
