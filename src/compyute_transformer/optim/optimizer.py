"""Optimizer: what AdamW and SGD share. Parameter groups, the layout in flat buffers, and the state.

An optimizer holds parameters, as PyTorch's do. Before every step it makes sure that their data and gradients are views
of flat buffers (see `flat`), and then updates one contiguous range after the other: usually one for each group.
"""

import weakref
from collections.abc import Iterable, Mapping
from math import inf
from numbers import Real
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .._arguments import CheckedArguments
from ..arrays import Array, array_module, device_of, to_device
from ..errors import ConfigError, StateError
from .flat import FlatBuffer, settle

__all__ = ["Optimizer", "Params", "check_fraction", "check_not_negative", "decay_groups"]

# Parameters; (name, parameter) pairs; or groups of either, {"params": [...], "lr": ...}.
Params = Iterable[Any]


class _Slot:
    """What an optimizer remembers of one parameter: its group, its number of steps, and its moments.

    moments: one-axis arrays shared with the neighbors of the parameter; its own elements begin at `start`. None before
    the first step.
    """

    def __init__(self, parameter: Any, name: str | None, group: dict[str, Any]) -> None:
        self.parameter, self.name, self.group = parameter, name, group
        self.size, self.steps, self.start = parameter.data.size, 0, 0
        self.moments: tuple[Array, ...] | None = None

    def own(self) -> tuple[Array, ...]:
        """Return the views of its own moments."""
        return tuple(array[self.start : self.start + self.size] for array in self.moments or ())


class Range(NamedTuple):
    """Parameters of one group that lie side by side and took equally many steps: one sweep.

    data, grad: one-axis views of the buffer. state: views of the moments. steps: taken before.
    """

    buffer: FlatBuffer
    start: int
    data: Array
    state: tuple[Array, ...]
    group: dict[str, Any]
    slots: list[_Slot]

    @property
    def grad(self) -> Array:
        """The gradients; asked for at each step, so that the layout holds no view of them."""
        return self.buffer.array_of_gradients(self.start, self.start + self.data.size)


class _Layout(NamedTuple):
    """The ranges of a step, and what they were made for: (parameter, place, has a gradient, requires_grad) of each."""

    ranges: list[Range]
    made_for: list[tuple[Any, Any, bool, bool]]

    def is_current(self) -> bool:
        for parameter, place, has_gradient, requires_grad in self.made_for:
            if parameter.place is not place or parameter.data is not place.data:
                return False
            if parameter.grad is not (place.grad if has_gradient else None):
                return False
            if parameter.requires_grad is not requires_grad:
                return False
        return True


class Optimizer(CheckedArguments):
    """The base of AdamW and SGD.

    params: parameters, (name, parameter) pairs, or groups {"params": [...], "lr": ...} with options of their own.
    param_groups: a list of dicts, one for each group, which may be changed before each step, as a schedule does.
    """

    STATE: ClassVar[tuple[str, ...]] = ()  # the names of the arrays that are kept for each parameter

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self._slots: list[_Slot] = []
        self._layout: _Layout | None = None
        self._newcomers: list[tuple[Any, Any]] = []
        self._check_options(defaults)
        groups = self._as_list(params)
        for group in groups if groups and isinstance(groups[0], Mapping) else [{"params": groups}]:
            self.add_param_group(group)

    # --- groups ---

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Take in more parameters, with options of their own: {"params": [...], "lr": ...}.

        Raises:
            ConfigError: an option does not exist or is out of range; there are no parameters; one is held already.
        """
        who = type(self).__name__
        if not isinstance(group, Mapping) or "params" not in group:
            raise ConfigError(f'{who}: a group is a dict with "params", got {type(group).__name__}.')
        unknown = set(group) - {"params", "param_names", "initial_lr", *self.defaults}
        if unknown:
            raise ConfigError(
                f"{who}: the options of a group are {', '.join(self.defaults)}, got {', '.join(sorted(unknown))}."
            )
        pairs = [self._as_pair(entry) for entry in self._as_list(group["params"])]
        if not pairs:
            raise ConfigError(f"{who}: a group has at least one parameter, got none.")
        own = {**self.defaults, **group, "params": [parameter for _, parameter in pairs]}
        if all(name is not None for name, _ in pairs):
            own["param_names"] = [name for name, _ in pairs]
        self._check_options(own)
        seen = {id(slot.parameter) for slot in self._slots}
        for name, parameter in pairs:
            if id(parameter) in seen:
                raise ConfigError(
                    f"{who}: every parameter is given once, got {name or parameter.path} twice. "
                    "model.parameters() has shared ones once."
                )
            seen.add(id(parameter))
        self.param_groups.append(own)
        self._slots += [_Slot(parameter, name, own) for name, parameter in pairs]
        for _, parameter in pairs:
            parameter.optimizers.add(self)
        self._write_back_steps()
        self._layout = None
        settle(self.parameters)  # already now, so that the first step sums in the same order as all others

    def _as_list(self, params: Any) -> list[Any]:
        if isinstance(params, FlatBuffer):
            return params.parameters
        if hasattr(params, "parameters") and not isinstance(params, Mapping):
            raise ConfigError(
                f"{type(self).__name__}: params is an iterable of parameters, got {type(params).__name__}. "
                "Give it model.parameters()."
            )
        if isinstance(params, Mapping):
            raise ConfigError(f"{type(self).__name__}: params is an iterable of parameters or of groups, got a dict.")
        if hasattr(params, "requires_grad"):
            return [params]
        try:
            return list(params)
        except TypeError:
            raise ConfigError(
                f"{type(self).__name__}: params is an iterable of parameters, got {type(params).__name__}. "
                "Give it model.parameters()."
            ) from None

    def _as_pair(self, entry: Any) -> tuple[str | None, Any]:
        name, parameter = entry if isinstance(entry, tuple) and len(entry) == 2 else (None, entry)
        if not (hasattr(parameter, "requires_grad") and hasattr(parameter, "place")):
            raise ConfigError(
                f"{type(self).__name__}: params holds nn.Parameter, got {type(parameter).__name__}. "
                "Give it model.parameters()."
            )
        return name, parameter

    @staticmethod
    def _check_options(options: Mapping[str, Any]) -> None:
        """Refuse options out of range. Raises ConfigError."""
        raise NotImplementedError

    @property
    def parameters(self) -> list[Any]:
        """The parameters of all groups, in order."""
        return [slot.parameter for slot in self._slots]

    @property
    def steps(self) -> int:
        """The number of steps taken: the largest of any parameter."""
        self._write_back_steps()
        return max(slot.steps for slot in self._slots)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or fill them with zeros."""
        for slot in self._slots:
            slot.parameter.zero_grad(set_to_none)

    # --- a step ---

    def step(self) -> None:
        """Move every parameter that has a gradient and is not frozen.

        Raises:
            StateError: a parameter was replaced in its model, or reshaped, so that training would go on without it.
        """
        if self._newcomers:
            self._refuse_newcomers()
        layout = self._layout
        if layout is None or not layout.is_current():
            layout = self._lay()
        for part in layout.ranges:
            self._update(part, part.slots[0].steps + 1)
            part.slots[0].steps += 1

    def _update(self, part: Range, step: int) -> None:
        """Move the weights of one range. step: its number, counted from 1."""
        raise NotImplementedError

    def _lay(self) -> _Layout:
        """Settle the parameters in flat buffers and join those that lie side by side into ranges."""
        self._write_back_steps()
        self._layout = None
        for slot in self._slots:
            if slot.parameter.data.size != slot.size:
                raise StateError(
                    f"{type(self).__name__}.step: {slot.name or slot.parameter.path} must keep its {slot.size} "
                    f"elements, got {slot.parameter.data.size}. Make the optimizer after a parameter was reshaped."
                )
        settle([slot.parameter for slot in self._slots])
        active = [slot for slot in self._slots if slot.parameter.requires_grad and slot.parameter.grad is not None]
        active.sort(key=lambda slot: (id(slot.parameter.place.buffer), slot.parameter.place.start))
        joined: list[list[_Slot]] = []
        for slot in active:
            if joined and _are_neighbors(joined[-1][-1], slot):
                joined[-1].append(slot)
            else:
                joined.append([slot])
        ranges = [self._range(slots) for slots in joined]
        made_for = [(p, p.place, p.grad is not None, p.requires_grad) for p in self.parameters]
        self._layout = _Layout(ranges, made_for)
        return self._layout

    def _range(self, slots: list[_Slot]) -> Range:
        first, last = slots[0], slots[-1]
        buffer, start = first.parameter.place.buffer, first.parameter.place.start
        stop = last.parameter.place.start + last.size
        if not _is_in_order(slots):
            self._join_moments(slots)
        here = first.start
        state = tuple(array[here : here + stop - start] for array in first.moments or ())
        return Range(buffer, start, buffer.data[start:stop], state, first.group, slots)

    def _join_moments(self, slots: list[_Slot]) -> None:
        """Copy the moments of some parameters into new arrays, side by side; zeros where there are none yet."""
        data = slots[0].parameter.data
        xp = array_module(data)
        joined = tuple(xp.zeros(sum(slot.size for slot in slots), _moment_dtype(data.dtype)) for _ in self.STATE)
        start = 0
        for slot in slots:
            for array, before in zip(joined, slot.own(), strict=False):
                array[start : start + slot.size] = to_device(before, device_of(data))
            slot.moments, slot.start = joined, start
            start += slot.size

    def _write_back_steps(self) -> None:
        """Give all parameters of a range the number of steps that its first one counted."""
        for part in self._layout.ranges if self._layout else ():
            for slot in part.slots:
                slot.steps = part.slots[0].steps

    # --- state ---

    def state_dict(self) -> dict[str, Any]:
        """Return a snapshot as PyTorch's: {"state": {index: {"step", moments...}}, "param_groups": [options]}.

        Parameters are numbered in the order of the groups; those that took no step have no state.
        """
        self._write_back_steps()
        numbers = {id(slot.parameter): number for number, slot in enumerate(self._slots)}
        state: dict[int, dict[str, Any]] = {}
        for number, slot in enumerate(self._slots):
            if slot.moments is not None:
                shape = slot.parameter.data.shape
                arrays = {name: array.reshape(shape).copy() for name, array in zip(self.STATE, slot.own(), strict=True)}
                state[number] = {"step": slot.steps, **arrays}
        groups = [{**group, "params": [numbers[id(p)] for p in group["params"]]} for group in self.param_groups]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was taken, with the options that it holds. All fits, or nothing is loaded.

        Raises:
            StateError: the groups or the shapes of the moments are not those of this optimizer.
        """
        faults = self._faults_of(state)
        if faults:
            raise StateError(
                f"{type(self).__name__}.load_state_dict: the state must be that of the same optimizer over the same "
                f"parameters; it is not: {'; '.join(faults)}."
            )
        for own, group in zip(self.param_groups, state["param_groups"], strict=True):
            own.update({name: value for name, value in group.items() if name not in ("params", "param_names")})
        self._layout = None
        given = {int(number): values for number, values in state["state"].items()}
        for number, slot in enumerate(self._slots):
            values, data = given.get(number), slot.parameter.data
            slot.start, slot.steps, slot.moments = 0, 0, None
            if values is not None:
                moments = (values[name].astype(_moment_dtype(data.dtype)) for name in self.STATE)
                slot.steps = int(values["step"])
                slot.moments = tuple(to_device(array, device_of(data)).reshape(-1) for array in moments)

    def _faults_of(self, state: Any) -> list[str]:
        """Return what does not fit of a state, in words."""
        if not isinstance(state, Mapping) or not {"state", "param_groups"} <= set(state):
            return ['it has no "state" and "param_groups"']
        counts = [len(group["params"]) for group in state["param_groups"]]
        own = [len(group["params"]) for group in self.param_groups]
        if counts != own:
            return [f"its groups have {counts} parameters, got an optimizer with {own}"]
        faults = []
        for number, values in state["state"].items():
            slot = self._slots[int(number)]
            name, shape = slot.name or slot.parameter.path, tuple(slot.parameter.data.shape)
            if set(values) != {"step", *self.STATE}:
                faults.append(f"{name} has {', '.join(map(str, values))} where step, {', '.join(self.STATE)} are due")
                continue
            if int(values["step"]) < 0:
                faults.append(f"{name} has step {values['step']}, which is below 0")
            faults += [
                f"{name}: {key} has shape {tuple(values[key].shape)}, got a parameter of shape {shape}"
                for key in self.STATE
                if tuple(values[key].shape) != shape
            ]
        return faults

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle takes along: the parameters and the moments, not the layout."""
        self._write_back_steps()
        groups = [{**group, "params": list(group["params"])} for group in self.param_groups]
        slots = [(slot.name, slot.steps, tuple(array.copy() for array in slot.own())) for slot in self._slots]
        return {"defaults": self.defaults, "param_groups": groups, "slots": slots}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.defaults, self.param_groups = state["defaults"], state["param_groups"]
        self._layout, self._newcomers, self._slots = None, [], []
        held = [(parameter, group) for group in self.param_groups for parameter in group["params"]]
        for (parameter, group), (name, steps, moments) in zip(held, state["slots"], strict=True):
            slot = _Slot(parameter, name, group)
            slot.steps, slot.moments = steps, moments or None
            self._slots.append(slot)
            parameter.optimizers.add(self)

    # --- parameters that came later ---

    def expect(self, parameter: Any, module: Any) -> None:
        """Remember a parameter that was put into a trained model; the next step asks whether anyone trains it."""
        self._newcomers.append((weakref.ref(parameter), weakref.ref(module)))

    def _refuse_newcomers(self) -> None:
        waiting = []
        for parameter_ref, module_ref in self._newcomers:
            parameter, module = parameter_ref(), module_ref()
            if parameter is None or module is None or parameter.optimizers:
                continue
            if not any(parameter is other for other in module.root.parameters()):
                continue
            waiting.append((parameter_ref, module_ref))
            if parameter.requires_grad and parameter.grad is not None:
                raise StateError(
                    f"{type(self).__name__}.step: {parameter.path} was put into the model after the optimizer was "
                    "made, so no optimizer trains it. Make the optimizer after the model is complete, call "
                    'optimizer.add_param_group({"params": [parameter]}), or freeze it: parameter.requires_grad = False.'
                )
        self._newcomers = waiting

    def __repr__(self) -> str:
        options = [", ".join(f"{k}={v}" for k, v in g.items() if k in self.defaults) for g in self.param_groups]
        return f"{type(self).__name__}({'; '.join(options)})"


def _are_neighbors(one: _Slot, other: _Slot) -> bool:
    """Return whether two parameters lie side by side and are updated alike."""
    here, there = one.parameter.place, other.parameter.place
    side_by_side = here.buffer is there.buffer and here.start + one.size == there.start
    return side_by_side and one.group is other.group and one.steps == other.steps


def _is_in_order(slots: list[_Slot]) -> bool:
    """Return whether the moments of some parameters lie side by side, on the device and in the dtype that is due."""
    first = slots[0]
    if first.moments is None:
        return False
    if any(
        array.dtype != _moment_dtype(first.parameter.data.dtype) or device_of(array) != device_of(first.parameter.data)
        for array in first.moments
    ):
        return False
    start = first.start
    for slot in slots:
        if slot.moments is not first.moments or slot.start != start:
            return False
        start += slot.size
    return True


def _moment_dtype(dtype: Any) -> Any:
    """Return the dtype of the moments: float32 at least, for the square of a small gradient is zero in float16."""
    return np.dtype(np.float32) if dtype.itemsize < 4 else dtype


def check_not_negative(optimizer: str, name: str, value: Any) -> None:
    """Raise a ConfigError unless an option is a finite number of at least 0, in words that fit what came."""
    if type(value) is float and 0 <= value < inf:  # the usual case, at every step
        return
    rule = f"{optimizer}: {name} is a number of at least 0"
    if not isinstance(value, Real) or isinstance(value, bool):
        remedy = f" Give float({value!r})." if isinstance(value, str) else ""
        raise ConfigError(f"{rule}, got {type(value).__name__} {value!r}.{remedy}")
    if value != value:
        raise ConfigError(f"{rule}, got NaN, which is no number. Look where it was computed.")
    if value < 0:
        raise ConfigError(f"{rule}, got {value}. Give {abs(value)}: a step goes against the gradient by itself.")
    if value == inf:
        raise ConfigError(
            f"{rule} and finite, got {value}, which no weight survives. Give a small number such as 1e-3."
        )


def check_fraction(optimizer: str, name: str, value: Any) -> None:
    """Raise a ConfigError unless an option is a number in [0, 1)."""
    if type(value) is float and 0 <= value < 1:
        return
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= float(value) < 1:
        raise ConfigError(f"{optimizer}: {name} is a number in [0, 1), got {value!r}.")


def decay_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups for an optimizer: matrices with weight decay; biases and the scales of norms without.

    Source: Radford et al. 2018; Loshchilov, Hutter 2019.
    """
    named = list(model.named_parameters())
    matrices = [(name, p) for name, p in named if p.data.ndim >= 2]
    vectors = [(name, p) for name, p in named if p.data.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
