"""Exercise: what a learner writes, what it is compared with, and the terms that its gradients are sums of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array

__all__ = ["Case", "Exercise", "Term", "Terms", "copied"]


class Case(NamedTuple):
    """One call: its inputs by name in the order of the parameters, and the gradient dy of the output.

    smooth: whether finite differences tell its slope; numbers of a thousand under an exponential are too steep.
    """

    name: str
    inputs: dict[str, Any]
    dy: Any
    smooth: bool = True


class Term(NamedTuple):
    """One term of a sum: how the formula writes it, and its value. A right result has every term exactly once."""

    text: str
    value: Array


Terms = Mapping[str, list[Term]]


@dataclass(frozen=True)
class Exercise:
    """An op as a learner writes it: NAME_forward(inputs) → y, saved, and NAME_backward(dy, saved) → gradients.

    parameters: of the forward, in order. gradients: what the backward returns, in order; one alone is no tuple.
    formula: the forward, in a line. forward, backward: the right ones, made of the library's ops. cases: to compare on,
    with axes of different lengths and dy independent of the inputs. terms: of a case, those whose sum each output is.
    """

    name: str
    parameters: tuple[str, ...]
    gradients: tuple[str, ...]
    formula: str
    forward: Callable[..., tuple[Any, Any]]
    backward: Callable[[Any, Any], Any]
    cases: Callable[[np.random.Generator], list[Case]]
    terms: Callable[[Case], Terms] = lambda case: {}

    @property
    def differentiable(self) -> tuple[str, ...]:
        """The parameters that the gradients belong to."""
        return tuple(name.removeprefix("d") for name in self.gradients)

    def right(self, case: Case) -> dict[str, Any]:
        """Return y and every gradient, by the library, or by a mistake that is switched on."""
        y, saved = self.forward(*map(copied, case.inputs.values()))
        found = self.backward(copied(case.dy), saved)
        gradients = found if isinstance(found, tuple) else (found,)
        return {"y": y, **dict(zip(self.gradients, gradients, strict=True))}


def copied(value: Any) -> Any:
    """Return a copy of an array, and anything else as it is."""
    return value.copy() if isinstance(value, np.ndarray) else value
