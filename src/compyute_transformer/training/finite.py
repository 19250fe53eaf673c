"""Finite: who produced the first NaN or infinity. Costs nothing until a loss or a gradient has gone wrong."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..arrays import Array, array_module
from ..nn.module import Module, Observer, Phase, observe
from .tasks.task import Task

__all__ = ["all_finite", "first_non_finite", "non_finite_parameter"]


def all_finite(array: Array) -> bool:
    """Whether no element is NaN or infinite."""
    return bool(array_module(array).isfinite(array).all())


def non_finite_parameter(model: Module) -> str | None:
    """The name of the first parameter whose values are not all finite, or None."""
    return next((name for name, parameter in model.named_parameters() if not all_finite(parameter.data)), None)


def first_non_finite(task: Task, state: Mapping[str, Any]) -> str:
    """What went wrong in a step, as a clause, found by taking the step again under observation.

    state: the task's, from before the step, so that the same batch and the same dropout are drawn. The weights must
    not have moved since.
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
    return "every module's numbers are finite, but the loss or the length of the gradient is not"


class _Found(Exception):
    """Ends the search."""


class _Watch(Observer):
    """Raises `_Found` at the first result that is not finite. A part is called done before the whole it belongs to."""

    def after(self, path: str, module: Module, phase: Phase, inputs: tuple[Any, ...], output: Any, *_: Any) -> None:
        own = (p.grad for name, p in module.named_parameters() if "." not in name and phase == "backward")
        if all(all_finite(array) for array in (*_arrays(output), *own) if array is not None):
            return
        name = f"{path} ({type(module).__name__})" if path else type(module).__name__
        raise _Found(f"the first module with a non-finite result is {name}, in its {phase} pass")


def _arrays(output: Any) -> Iterator[Array]:
    """The float arrays in what a module returns."""
    for value in output if isinstance(output, tuple) else (output,):
        if getattr(getattr(value, "dtype", None), "kind", None) == "f":
            yield value
