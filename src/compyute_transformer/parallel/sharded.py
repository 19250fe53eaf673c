"""The sharded optimizer (ZeRO-1): each process keeps the moments of a part of the weights, and updates that part.

    reduce-scatter    each process has the sum of the gradients of its part
    update            of its part: 1/W of the work, and 1/W of the memory for moments
    all-gather        each process gives its new weights to all others

As many bytes travel as where the whole gradient is given to all, and every weight is moved by the same numbers, so the
weights have the same bits. A state dict holds the whole state, so that any number of processes can go on with it.

Source: Rajbhandari et al. 2020, "ZeRO: Memory optimizations toward training trillion parameter models", stage 1.
"""

import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arrays import Array, to_numpy
from ..errors import ConfigError, StateError
from ..nn.module import Module
from ..optim.flat import Place, settle
from ..optim.optimizer import Optimizer
from .buckets import Buckets

__all__ = ["ShardedOptimizer"]

PRESENT = np.empty(0)  # stands for a gradient, of which an optimizer only asks whether it is there: no view is held


class _Piece:
    """The part of a parameter that this process updates, as a parameter of one axis. number: of the parameter."""

    def __init__(self, parameter: Any, number: int, start: int, stop: int) -> None:
        buffer, first = parameter.place.buffer, parameter.place.start
        self.parameter, self.number, self.part = parameter, number, slice(start - first, stop - first)
        self.data: Array = buffer.data[start:stop]
        self.place = Place(buffer, start, self.data, PRESENT)
        self.optimizers: weakref.WeakSet[Any] = weakref.WeakSet()

    @property
    def grad(self) -> Array | None:
        return None if self.parameter.grad is None else PRESENT

    @property
    def requires_grad(self) -> bool:
        return bool(self.parameter.requires_grad)

    @property
    def path(self) -> str:
        return str(self.parameter.path)


class ShardedOptimizer(Optimizer):
    """An optimizer of which each process keeps a part; see `DataParallel.shard`, which makes it.

    optimizer: over parameters of the model; what it remembers is taken over, and it must not be used any more.
    """

    def __init__(self, optimizer: Optimizer, model: Module, buckets: Buckets) -> None:
        state = optimizer.state_dict()
        self.model, self.buckets, self.flat = model, buckets, model.flat
        self.STATE = optimizer.STATE  # type: ignore[misc]
        self.defaults, self.param_groups, self._slots = optimizer.defaults, optimizer.param_groups, optimizer._slots
        self._layout, self._newcomers = None, optimizer._newcomers
        for slot in self._slots:
            if slot.parameter.place is None or slot.parameter.place.buffer is not self.flat:
                raise ConfigError(
                    f"DataParallel.shard: the optimizer holds parameters of the model, got {slot.parameter.path}, "
                    "which is none of them. Make one model that contains all, or two optimizers."
                )
            slot.moments, slot.start = None, 0
            slot.parameter.optimizers.add(self)
        self._own = self._optimizer_of_pieces(optimizer)
        self.flat.shard = buckets
        self.load_state_dict(state)
        optimizer.__dict__["step"] = _refuse_step

    def _optimizer_of_pieces(self, optimizer: Optimizer) -> Optimizer | None:
        """Return an optimizer of the same kind over the own pieces; None where there are none."""
        self._groups: list[tuple[dict[str, Any], dict[str, Any]]] = []
        numbers = {id(slot.parameter): number for number, slot in enumerate(self._slots)}
        made: list[tuple[dict[str, Any], list[_Piece]]] = []
        for group in self.param_groups:
            pieces = [piece for p in group["params"] for piece in _pieces_of(p, numbers[id(p)], self.buckets.slices)]
            if pieces:
                made.append((group, pieces))
        if not made:
            return None
        own: Optimizer = type(optimizer).__new__(type(optimizer))
        own.__dict__.update({name: value for name, value in vars(optimizer).items() if not hasattr(self, name)})
        Optimizer.__init__(
            own, [{**self._options_of(group), "params": pieces} for group, pieces in made], self.defaults
        )
        self._groups = [(group, inner) for (group, _), inner in zip(made, own.param_groups, strict=True)]
        return own

    def _options_of(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {name: group[name] for name in self.defaults}

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Refuse: the groups are those of the optimizer that was sharded."""
        raise ConfigError("DataParallel.shard: all groups are added before an optimizer is sharded, got another one.")

    def step(self) -> None:
        """Move the own part of every parameter that has a gradient and is not frozen, and receive the other parts.

        Raises:
            StateError: parameters were reshaped or moved after the optimizer was sharded.
            ParallelError: a process has failed, or does not answer.
        """
        if self._newcomers:
            self._refuse_newcomers()
        settle(self.parameters)
        if self.model.flat is not self.flat:
            raise StateError(
                "DataParallel.shard: parameters keep their shape, dtype and device after their optimizer was sharded, "
                "got others. Change the model first, then make and shard its optimizer."
            )
        for group, inner in self._groups:
            inner.update(self._options_of(group))
        if self._own is not None:
            self._own.step()
        for slot in self._slots:
            slot.steps += slot.parameter.requires_grad and slot.parameter.grad is not None
        self.buckets.gather(self.flat.data)

    # --- state ---

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state in process 0, in the format of the optimizer that was sharded; the options in others.

        All processes call it together.
        """
        groups = super().state_dict()["param_groups"]
        whole = [self._gathered(self._moments_of(name)) for name in self.STATE]
        state: dict[int, dict[str, Any]] = {}
        for number, slot in enumerate(self._slots):
            if slot.steps and self.buckets.communicator.rank == 0:
                shape, start = slot.parameter.data.shape, slot.parameter.place.start
                parts = (array[start : start + slot.size].reshape(shape) for array in whole if array is not None)
                state[number] = {"step": slot.steps, **dict(zip(self.STATE, parts, strict=True))}
        return {"state": state, "param_groups": groups}

    def _moments_of(self, name: str) -> np.ndarray:
        """Return the own slices of a moment, side by side; zeros where there are none yet."""
        dtype = np.result_type(self.flat.data.dtype, np.float32)
        own = np.zeros(sum(stop - start for start, stop in self.buckets.slices), dtype)
        starts, begin = [], 0
        for start, stop in self.buckets.slices:
            starts.append((start, stop, begin))
            begin += stop - start
        for slot in self._own._slots if self._own is not None else ():
            if slot.moments is not None:
                place = slot.parameter.place.start
                first = next(place - start + begin for start, stop, begin in starts if start <= place < stop)
                own[first : first + slot.size] = to_numpy(slot.own()[self.STATE.index(name)])
        return own

    def _gathered(self, own: np.ndarray) -> np.ndarray | None:
        """Return the slices of all processes in place, in process 0; None in the others."""
        communicator = self.buckets.communicator
        if communicator.rank:
            communicator.send(own, 0)
            return None
        whole = np.zeros(self.flat.data.size, own.dtype)
        for rank in range(communicator.size):
            slices = self.buckets.slices_of(rank)
            like = np.empty(sum(stop - start for start, stop in slices), own.dtype)
            part = communicator.receive(like, rank) if rank else own
            for start, stop in slices:
                whole[start:stop], part = part[: stop - start], part[stop - start :]
        return whole

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a whole state was taken, by any number of processes. All fits, or nothing is loaded.

        Raises:
            StateError: the groups or the shapes of the moments are not those of this optimizer.
        """
        super().load_state_dict(state)
        if self._own is not None:
            pieces = {}
            for index, piece in enumerate(slot.parameter for slot in self._own._slots):
                slot = self._slots[piece.number]
                if slot.moments is not None:
                    moments = (array[piece.part] for array in slot.own())
                    pieces[index] = {"step": slot.steps, **dict(zip(self.STATE, moments, strict=True))}
            self._own.load_state_dict({"state": pieces, "param_groups": self._own.state_dict()["param_groups"]})
        for slot in self._slots:
            slot.moments = None

    def __getstate__(self) -> dict[str, Any]:
        """Refuse a copy, which would have a part of the state."""
        raise StateError("DataParallel.shard: a sharded optimizer cannot be copied, since no process has all of it.")


def _pieces_of(parameter: Any, number: int, slices: list[tuple[int, int]]) -> list[_Piece]:
    """Return the parts of a parameter that lie in some slices of its buffer."""
    first = parameter.place.start
    ends = ((max(start, first), min(stop, first + parameter.data.size)) for start, stop in slices)
    return [_Piece(parameter, number, start, stop) for start, stop in ends if start < stop]


def _refuse_step() -> None:
    raise StateError(
        "Optimizer.step: this optimizer was sharded. Use what DataParallel.shard returned: optimizer = "
        "parallel.shard(optimizer)."
    )
