"""Finite: find the module that produced the first NaN or infinity. Costs nothing until a loss is not finite."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..arrays import Array, array_module
from ..nn.module import Module
from ..nn.observer import Observer, Phase, observe
from .tasks.task import Task

__all__ = ["all_finite", "first_non_finite", "non_finite_parameter"]


def all_finite(array: Array) -> bool:
    """Return whether no element is NaN or infinite."""
    wide = array.astype(np.float32) if array.dtype.kind == "V" else array  # bfloat16
    return bool(array_module(wide).isfinite(wide).all())


def non_finite_parameter(model: Module) -> str | None:
    """Return the name of the first parameter with a value that is not finite, or None."""
    return next((name for name, parameter in model.named_parameters() if not all_finite(parameter.data)), None)


def first_non_finite(task: Task, state: Mapping[str, Any]) -> str:
    """Return what went wrong in a step, as a clause, by repeating the step under observation.

    state: of the task, before the step, so that the batch and the dropout masks are the same. The weights must not
    have changed since.
    """
    if (name := non_finite_parameter(task.model)) is not None:
        return f"the parameter {name} is not finite"
    task.load_state(state)
    task.model.clear_saved()
    task.model.zero_grad()
    try:
        with observe(task.model, _Watch()):
            for part, weight in task.batch():
                task.loss_and_gradient(part, weight)
    except _Found as found:
        return str(found)
    return "the results of all modules are finite, but the loss or the norm of the gradient is not"


class _Found(Exception):
    """Ends the search; its message names the module."""


class _Watch(Observer):
    """Raises `_Found` at the first result that is not finite. A submodule is observed before the module around it."""

    def after(self, path: str, module: Module, phase: Phase, inputs: tuple[Any, ...], output: Any, *_: Any) -> None:
        own = (p.grad for name, p in module.named_parameters() if "." not in name and phase == "backward")
        if all(all_finite(array) for array in (*_arrays(output), *own) if array is not None):
            return
        name = f"{path} ({type(module).__name__})" if path else type(module).__name__
        raise _Found(f"the first module with a non-finite result is {name}, in its {phase} pass")


def _arrays(output: Any) -> Iterator[Array]:
    """Yield the float arrays in the output of a module."""
    for value in output if isinstance(output, tuple) else (output,):
        if getattr(getattr(value, "dtype", None), "kind", None) in ("f", "V"):  # V: bfloat16
            yield value
