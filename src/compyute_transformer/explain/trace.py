"""Trace: record one forward, loss and backward of a model: what every op read, returned, saved and passed back.

    traced = trace(model, ids)                       # on a copy: the model and its gradients stay as they are
    traced.loss, traced.logits
    for call in traced.ops:                          # in the order in which they ran
        call.path, call.name, call.phase             # "blocks.0.attention", "linear", "forward"
        call.inputs["x"], call.outputs["y"], call.saved
    traced.gradients["blocks.0.attention.in_weight"]

Modules are seen by an `Observer`, ops by `dispatch.intercept`, so that no model is known here. Every array is copied
when it passes, since some ops write over their inputs; equal arrays share one copy.
"""

import copy
import re
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import blake2b
from inspect import signature
from typing import Any, Literal

import numpy as np

from ..arrays import Array, array_module, device_of, to_device, to_numpy
from ..dispatch import Dispatched, intercept, use_kernels
from ..errors import ConfigError, InputError
from ..models.registry import record_of
from ..nn import CrossEntropyLoss, Module, Observer, observe
from ..ops.loss import IGNORE_INDEX

__all__ = ["LOSS", "ModuleCall", "OpCall", "Trace", "gradients_by_name", "next_tokens", "trace"]

LOSS = "loss"  # the path of the ops outside of all modules

Arrays = dict[str, np.ndarray]
Phase = Literal["forward", "backward"]


@dataclass
class OpCall:
    """One call of an op.

    start: its place among all calls of ops and modules. path: of the module that called it. within: the start of the op
    whose reference called it; None for a call by a module. ran: "reference", or the device whose kernel ran. inputs:
    the arrays among its arguments, by name; outputs: {"y": ...} of a forward, {"dx": ..., "dweight": ...} of a
    backward. options: its other arguments. saved: the fields of what a forward saves for its backward. parameters: the
    paths of those inputs that are parameters. partner: the start of the forward that a backward belongs to, and the
    other way round.
    """

    start: int
    name: str
    phase: Phase
    path: str
    within: int | None
    ran: str
    op: Dispatched[..., Any]
    inputs: Arrays
    options: dict[str, Any]
    parameters: dict[str, str]
    outputs: Arrays = field(default_factory=dict)
    saved: Arrays = field(default_factory=dict)
    partner: int | None = None


@dataclass
class ModuleCall:
    """One forward or backward of a module, with the arrays it was given and those it returned; see `OpCall`."""

    start: int
    path: str
    module: Module
    phase: Phase
    inputs: Arrays
    outputs: Arrays = field(default_factory=dict)
    partner: int | None = None


@dataclass(frozen=True)
class Trace:
    """What happened in one forward, loss and backward.

    model: the copy that ran, on the CPU by now. inputs: of its forward, by name. parameters, gradients: by the names of
    the parameters. input_gradients: what the model's backward returned.
    """

    model: Any
    inputs: Arrays
    targets: np.ndarray
    logits: np.ndarray
    loss: float
    ops: tuple[OpCall, ...]
    modules: tuple[ModuleCall, ...]
    parameters: Arrays
    gradients: Arrays
    input_gradients: Arrays

    def op(self, path: str, name: str, phase: Phase = "forward") -> OpCall:
        """Return the first call of an op by a module. Raises KeyError where there is none."""
        for call in self.ops:
            if (call.path, call.name, call.phase) == (path, name, phase):
                return call
        raise KeyError(f"{path} ran no {phase} of {name}")


def trace(
    model: Any,
    *inputs: Array | None,
    targets: Array | None = None,
    kernels: Literal["auto", "reference"] = "reference",
    dropout: bool = False,
) -> Trace:
    """Record a forward, the loss and a backward of a model.

    inputs: those of the model's forward: ids (B, T) of a language model; source and target ids, and lengths or None, of
    a translation; images. targets: one for each row of logits, -100 where a row is not scored; a language model needs
    none, since position t predicts the token at t + 1. kernels: run the references, whose inner ops are recorded too,
    or the kernels where there are any. dropout: whether elements are dropped as in training.

    The model is copied first: neither its gradients nor its random state change.

    Raises:
        InputError: there are no targets, and the model is none of a language. What the model's forward raises.
    """
    if targets is None:
        targets = _default_targets(model, inputs)
    device = device_of(next(model.parameters()).data)
    inputs = tuple(value if value is None else to_device(value, device) for value in inputs)
    copied = copy.deepcopy(model).train()
    copied.zero_grad()
    if not dropout:
        copied.apply(_drop_nothing)
    recorder = Recorder(copied)
    criterion = CrossEntropyLoss()
    with ExitStack() as held:
        held.enter_context(use_kernels(kernels))
        held.enter_context(observe(copied, recorder))
        held.enter_context(intercept(recorder.op))
        logits = copied(*inputs)
        loss = float(criterion(logits, to_device(targets, device)))
        kept_logits = recorder.keep(logits)
        input_gradients = copied.backward(criterion.backward())
    if device != "cpu":
        copied.to("cpu")  # for what is computed from the trace, whose arrays are NumPy's
    parameters = dict(copied.named_parameters())
    names = signature(type(copied).forward).parameters
    return Trace(
        copied,
        recorder.arrays_of(dict(zip(list(names)[1:], inputs, strict=False))),
        recorder.keep(targets),
        kept_logits,
        loss,
        tuple(recorder.ops),
        tuple(recorder.modules),
        {name: recorder.keep(p.data) for name, p in parameters.items()},
        {name: recorder.keep(p.grad) for name, p in parameters.items() if p.grad is not None},
        recorder.arrays_of(_named(input_gradients, "input_gradient")),
    )


def next_tokens(ids: Array) -> np.ndarray:
    """Return the targets (B, T) of ids (B, T): the next token of each position; the last one has none."""
    targets: np.ndarray = np.full(ids.shape, IGNORE_INDEX, np.int64)
    targets[:, :-1] = to_numpy(ids)[:, 1:]
    return targets


def _default_targets(model: Any, inputs: tuple[Any, ...]) -> np.ndarray:
    try:
        task: str = record_of(model).task
    except (AttributeError, ConfigError):
        task = "language" if len(inputs) == 1 and getattr(inputs[0], "ndim", 0) == 2 else ""
    if task != "language":
        raise InputError(
            f"trace: a {type(model).__name__} needs targets for its loss, got none. "
            "Give targets=..., one for each row of logits."
        )
    if getattr(inputs[0], "ndim", 0) != 2 or inputs[0].shape[1] < 2:
        raise InputError(
            "trace: ids have shape (B, T) with T at least 2, since each position predicts the next token, got "
            f"{tuple(getattr(inputs[0], 'shape', ()))}. Give a longer text, or targets=..."
        )
    return next_tokens(inputs[0])


def _drop_nothing(module: Any) -> None:
    for name in ("p", "dropout"):
        if isinstance(getattr(module, name, None), float):
            setattr(module, name, 0.0)


class Recorder(Observer):
    """Records the calls of modules and ops. pool: every array once, by its content."""

    def __init__(self, model: Module) -> None:
        self.ops: list[OpCall] = []
        self.modules: list[ModuleCall] = []
        self.pool: dict[bytes, np.ndarray] = {}
        self._parameters = [(name, parameter.data) for name, parameter in model.named_parameters()]
        self._scopes: list[ModuleCall] = []
        self._open: list[OpCall] = []
        self._waiting: dict[str, list[ModuleCall]] = {}  # forwards of each module that no backward took
        self._forwards: list[tuple[OpCall, Any]] = []  # with what they saved, which stays alive and so keeps its id
        self._started = 0

    # --- arrays ---

    def keep(self, array: Array) -> np.ndarray:
        """Return a copy of an array; equal arrays share one."""
        values = np.ascontiguousarray(to_numpy(array))
        digest = blake2b(values.tobytes(), key=f"{values.dtype}{values.shape}".encode()[:64], digest_size=16).digest()
        if digest not in self.pool:
            self.pool[digest] = values.copy()
        return self.pool[digest]

    def arrays_of(self, values: dict[str, Any]) -> Arrays:
        """Return copies of the arrays among some values."""
        return {name: self.keep(value) for name, value in values.items() if hasattr(value, "dtype")}

    # --- modules ---

    def before(
        self, path: str, module: Module, phase: Phase, inputs: tuple[Any, ...], keywords: dict[str, Any]
    ) -> None:
        """Open the scope of a module: the ops that run now are its own."""
        names = signature(getattr(type(module), phase)).bind(module, *inputs, **keywords).arguments
        call = ModuleCall(self._next(), path, module, phase, self.arrays_of(dict(list(names.items())[1:])))
        if phase == "forward":
            self._waiting.setdefault(path, []).append(call)
        elif self._waiting.get(path):
            forward = self._waiting[path].pop()  # the latest: what is saved lies on a stack
            forward.partner, call.partner = call.start, forward.start
        self.modules.append(call)
        self._scopes.append(call)

    def after(
        self,
        path: str,
        module: Module,
        phase: Phase,
        inputs: tuple[Any, ...],
        output: Any,
        keywords: dict[str, Any],
    ) -> None:
        """Close the scope of a module."""
        call = self._scopes.pop()
        call.outputs = self.arrays_of(_named(output, "y" if phase == "forward" else "dx"))

    # --- ops ---

    def op(self, op: Dispatched[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a call of an op, and record it."""
        arguments = dict(signature(op).bind(*args, **kwargs).arguments)
        name = op.__name__.removesuffix("_forward").removesuffix("_backward")
        phase: Phase = "backward" if op.__name__.endswith("_backward") else "forward"
        saved = arguments.pop("saved", None)
        options = {key: _on_host(value) for key, value in arguments.items() if not hasattr(value, "dtype")}
        ran = "reference" if op.kernel_of(*args, **kwargs) is None else "kernel"
        path = self._scopes[-1].path if self._scopes else LOSS
        within = self._open[-1].start if self._open else None
        inputs = self.arrays_of(arguments)
        call = OpCall(self._next(), name, phase, path, within, ran, op, inputs, options, self._named(arguments))
        self.ops.append(call)
        self._open.append(call)
        try:
            result = op.run(*args, **kwargs)
        finally:
            self._open.pop()
        if phase == "forward":
            self._record_forward(call, result)
        else:
            self._pair(call, saved)
            call.outputs = self.arrays_of(gradients_by_name(op, result))
        return result

    def _record_forward(self, call: OpCall, result: Any) -> None:
        y, saved = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
        call.outputs = self.arrays_of({"y": y})
        call.saved = self.arrays_of(_fields(saved))
        self._forwards.append((self._first_of(call), saved))

    def _first_of(self, call: OpCall) -> OpCall:
        """Return the forward that a forward within a backward computes again; of any other, itself."""
        if not self._open or self._open[-1].phase == "forward":
            return call
        given = {name: id(array) for name, array in call.inputs.items()}  # equal arrays are one object
        for other, _ in self._forwards:
            alike = (other.path, other.name) == (call.path, call.name)
            if alike and given == {name: id(array) for name, array in other.inputs.items()}:
                return other
        return call

    def _pair(self, call: OpCall, saved: Any) -> None:
        """Find the forward of a backward: that which saved the same object, or else the same arrays."""
        given = {id(value) for value in _fields(saved).values() if hasattr(value, "dtype")}
        same = [f for f, kept in self._forwards if kept is saved and f.name == call.name]
        alike = [
            f
            for f, kept in self._forwards
            if f.name == call.name and given and given == {id(v) for v in _fields(kept).values() if hasattr(v, "dtype")}
        ]
        for forward in (same or alike)[-1:]:
            forward.partner, call.partner = call.start, forward.start

    def _named(self, arguments: dict[str, Any]) -> dict[str, str]:
        """Return the paths of the arguments that are parameters, or parts of parameters."""
        found = {}
        for name, value in arguments.items():
            for path, data in self._parameters if hasattr(value, "dtype") and value.size else ():
                if value.dtype == data.dtype and _share_memory(value, data):
                    found[name] = path
                    break
        return found

    def _next(self) -> int:
        self._started += 1
        return self._started - 1


def _on_host(value: Any) -> Any:
    """Return an option with its arrays as NumPy's: those of a mask."""
    if hasattr(value, "_fields"):
        return type(value)(*(to_numpy(item) if device_of(item) == "cuda" else item for item in value))
    return value


def _share_memory(one: Array, other: Array) -> bool:
    return device_of(one) == device_of(other) and bool(array_module(one).may_share_memory(one, other))


def _fields(saved: Any, prefix: str = "") -> dict[str, Any]:
    """Return the fields of what a forward saves, those of tuples within it too, by dotted names."""
    if not hasattr(saved, "_fields"):
        return {}
    found: dict[str, Any] = {}
    for name, value in zip(saved._fields, saved, strict=True):
        nested = _fields(value, f"{prefix}{name}.")
        found |= nested or {f"{prefix}{name}": value}
    return found


def _named(output: Any, name: str) -> dict[str, Any]:
    several = isinstance(output, tuple)
    return {f"{name}{i}" if several and i else name: value for i, value in enumerate(output if several else (output,))}


def gradients_by_name(op: Dispatched[..., Any], result: Any) -> dict[str, Any]:
    """Return the results of a backward by the names that its docstring gives them: dx, dweight, dbias."""
    results = result if isinstance(result, tuple) and not hasattr(result, "dtype") else (result,)
    found = re.search(r"`: (d\w+(?:, d\w+)*)", " ".join((op.__doc__ or "").split()))
    names = found[1].split(", ") if found else []
    if len(names) != len(results):
        names = [f"gradient{i}" for i in range(len(results))]
    return dict(zip(names, results, strict=True))
