"""Fast twins against the readable bodies, and the readable bodies on a GPU against themselves on a CPU.

A twin fills the same Saved type as the body, so three backward passes must agree with the readable one:

    body's forward -> body's backward      what the others are compared with
    body's forward -> twin's backward
    twin's forward -> body's backward
    twin's forward -> twin's backward

A twin that declines a case (`serves` says so) is not compared on it: the body runs there.
"""

from typing import Any

import numpy as np

from ..backend import Array, Device, Twin, floor_fault, to_device, to_numpy, use
from ..ops.contract import Case, Op, cotangent, map_arrays
from .check import Check, gradient_errors, relative_error
from .tolerances import limit

__all__ = ["DEVICES", "compare_devices", "compare_twin", "floors"]

DEVICES: dict[str, Device] = {"cpu": "cpu", "gpu": "cuda"}


def floors() -> list[str]:
    """The floors of fast twins that can run on this machine."""
    return [floor for floor in DEVICES if floor_fault(floor) is None]


def compare_twin(op: Op, case: Case, dtype: Any, floor: str, seed: int = 0) -> list[Check]:
    """One case on the twins of a floor: y and each gradient, and that the inputs stay as they were.

    An empty list says that the op has no twin there, or none that serves the case.
    """
    forward, backward = twin_of(op.forward, floor), twin_of(op.backward, floor)
    device = DEVICES[floor]
    arguments = on_device(case.arguments(seed, dtype), device)
    values = tuple(arguments.values())
    with use("reference"):
        y, saved = op.forward(*values)
        dy = to_device(cotangent(y, seed), device)
        expected = op.gradients(dy, saved)

    errors: dict[str, float] = {}
    fast_saved = None
    if forward is not None and forward.serves(*values):
        fast_y, fast_saved = forward(*values)
        errors["y"] = relative_error(fast_y, y)
        same = type(fast_saved) is type(saved)
        errors["type of saved"] = 0.0 if same else float("inf")
        fast_saved = fast_saved if same else None  # what a backward makes of another type is no gradient
    if fast_saved is not None:
        with use("reference"):
            gradients = op.gradients(dy, fast_saved)
        errors |= named("twin's forward, body's backward", gradient_errors(gradients, expected))
    for origin, kept in (("body's", saved), ("twin's", fast_saved)):
        if kept is not None and backward is not None and backward.serves(dy, kept):
            gradients = op.by_name(backward(dy, kept))
            errors |= named(f"{origin} forward, twin's backward", gradient_errors(gradients, expected))
    if errors:
        fresh = on_device(case.arguments(seed, dtype), device)
        errors["inputs left alone"] = 0.0 if equal(fresh, arguments) else float("inf")
    allowed = limit("twin", dtype)
    return [Check(op.name, case.name, f"{what} on {floor}", error, allowed) for what, error in errors.items()]


def compare_devices(op: Op, case: Case, dtype: Any, seed: int = 0) -> list[Check]:
    """One case of the readable body on a GPU and on a CPU: y and each gradient.

    Raises:
        BackendError: there is no GPU.
    """
    results = []
    for device in ("cuda", "cpu"):
        arguments = on_device(case.arguments(seed, dtype), device)
        with use("reference"):
            y, saved = op.forward(*arguments.values())
            results.append((y, op.gradients(to_device(cotangent(y, seed), device), saved)))
    (y, gradients), (expected_y, expected) = results
    errors = {"y": relative_error(y, expected_y)} | gradient_errors(gradients, expected)
    allowed = limit("device", dtype)
    return [Check(op.name, case.name, f"{what} on a GPU", error, allowed) for what, error in errors.items()]


def twin_of(function: Any, floor: str) -> Any:
    """The fast twin of an op's function on a floor, or None; functions composed of ops have none of their own."""
    return function.twin(floor) if isinstance(function, Twin) else None


def on_device(value: Any, device: Device) -> Any:
    """The same structure with its arrays on a device."""
    return map_arrays(lambda array: to_device(array, device), value)


def named(route: str, errors: dict[str, float]) -> dict[str, float]:
    """The same errors, each with the route by which its gradient came."""
    return {f"{what} ({route})": error for what, error in errors.items()}


def equal(a: Any, b: Any) -> bool:
    """Whether two structures hold equal arrays and options."""
    left: list[Array] = []
    right: list[Array] = []
    map_arrays(left.append, a)
    map_arrays(right.append, b)
    return all(np.array_equal(to_numpy(x), to_numpy(y)) for x, y in zip(left, right, strict=True))
