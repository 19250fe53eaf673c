"""Learner: calls the functions that a learner wrote, and says in one sentence what is wrong with what they return."""

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from .exercise import Case, Exercise, copied

__all__ = ["Fault", "answers"]

Function = Callable[..., Any]


class Fault(Exception):
    """What keeps an answer from being compared with the right one. hint: what leads to the remedy."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.hint = hint


def call(function: Function, *arguments: Any) -> Any:
    """Return what a learner's function returns. Raises a Fault in place of whatever it raises."""
    try:
        with np.errstate(all="ignore"):
            return function(*arguments)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit: nothing that the code does ends the grading
        raise Fault(f"{_name(function)} raised {described(error)}.") from None


def described(error: BaseException) -> str:
    """Return an error of a learner's code as one line: its type, its message, and the line that raised it."""
    text = " ".join(str(error).split())[:300]
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "compyute_transformer" not in frame.filename and "numpy" not in frame.filename
    ]
    where = f" (line {frames[-1].lineno}: {(frames[-1].line or '').strip()[:120]})" if frames else ""
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"


def answers(exercise: Exercise, forward: Function | None, backward: Function | None, case: Case) -> dict[str, Any]:
    """Return what a learner's functions compute for a case, by the names of the outputs: "y", "dx", "dweight".

    A function that is None is the library's, and its outputs are left out. Raises a Fault.
    """
    found: dict[str, Any] = {}
    if forward is None:
        _, saved = exercise.forward(*map(copied, case.inputs.values()))
    else:
        y, saved = _forward(exercise, forward, backward is not None, case)
        found["y"] = _array(f"{exercise.name}_forward", "y", y)
    if backward is not None:
        found |= _backward(exercise, backward, saved, case)
    return found


def _forward(exercise: Exercise, forward: Function, has_backward: bool, case: Case) -> tuple[Any, Any]:
    inputs = {name: copied(value) for name, value in case.inputs.items()}
    returned = call(forward, *inputs.values())
    for name, value in inputs.items():
        if isinstance(value, np.ndarray) and not np.array_equal(value, case.inputs[name], equal_nan=True):
            raise Fault(
                f"{exercise.name}_forward writes over its argument {name}.",
                "Others still read that array. Make a new one (x * 2 instead of x *= 2), or copy it first.",
            )
    if isinstance(returned, tuple) and len(returned) == 2:
        return returned
    if has_backward or isinstance(returned, tuple):
        raise Fault(
            f"{exercise.name}_forward returns a pair, y and what the backward needs, got {_kind(returned)}.",
            "End it with: return y, saved. saved may be anything, a tuple for example.",
        )
    return returned, None


def _backward(exercise: Exercise, backward: Function, saved: Any, case: Case) -> dict[str, Any]:
    op, names = f"{exercise.name}_backward", exercise.gradients
    dy = copied(case.dy)
    returned = call(backward, dy, saved)
    if isinstance(dy, np.ndarray) and not np.array_equal(dy, case.dy):
        raise Fault(
            f"{op} writes over its argument dy.",
            "In a residual connection the same dy goes to two places. Make a new array, or copy it first.",
        )
    gradients = returned if isinstance(returned, (tuple, list)) else (returned,)
    if len(gradients) != len(names):
        raise Fault(
            f"{op} returns {', '.join(names)}, {len(names)} in this order, got {_kind(returned)}.",
            "There is one gradient for each argument that can be differentiated.",
        )
    return {name: _array(op, name, gradient) for name, gradient in zip(names, gradients, strict=True)}


def _array(op: str, name: str, value: Any) -> Any:
    """Return a learner's value as float64. Raises a Fault where it is no array of numbers."""
    try:
        array = np.asarray(value)
        real = array.dtype.kind in "fiu"
    except Exception:  # an object that cannot even be looked at
        real = False
    if not real or value is None:
        raise Fault(f"{op}: {name} is an array of real numbers, got {_kind(value)}.")
    if array.dtype.kind == "f" and array.dtype.itemsize < 8:
        raise Fault(
            f"{op}: {name} has the dtype of the inputs, float64, got {array.dtype}.",
            "Make new arrays with the dtype of x: np.zeros(shape, dtype=x.dtype).",
        )
    return array.astype(np.float64)


def _name(function: Function) -> str:
    return str(getattr(function, "__name__", function))


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{type(value).__name__}"
