"""Fast kernels against the references, and the references on a GPU against themselves on a CPU.

A kernel fills the same Saved type as the reference, so three backward passes must agree with the readable one:

    reference's forward -> reference's backward      what the others are compared with
    reference's forward -> kernel's backward
    kernel's forward -> reference's backward
    kernel's forward -> kernel's backward

A kernel that declines a case (`supports` says so) is not compared on it: the reference runs there.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ..arrays import Array, Device, to_device, to_numpy
from ..dispatch import Dispatched, package_fault, use_kernels
from .record import Case, Op, cotangent, map_arrays
from .result import Label, Result, from_errors, outcome_errors, outcome_of
from .tolerances import limit

__all__ = ["DEVICES", "compare_devices", "compare_kernel", "packages"]

DEVICES: dict[str, Device] = {"cpu": "cpu", "cuda": "cuda"}


def packages() -> list[str]:
    """Return the packages of kernels that can run on this machine."""
    return [package for package in DEVICES if package_fault(package) is None]


def compare_kernel(op: Op, case: Case, dtype: Any, package: str, seed: int = 0) -> list[Result]:
    """Compare the kernels of a package with the references on one case: y, each gradient, and the inputs left alone.

    An empty list says that the op has no kernel there, or none that supports the case.
    """
    forward, backward = kernel_of(op.forward, package), kernel_of(op.backward, package)
    device = DEVICES[package]
    arguments = on_device(case.arguments(seed, dtype), device)
    values = tuple(arguments.values())
    with use_kernels("reference"):
        y, saved = op.forward(*values)
        dy = to_device(cotangent(y, seed), device)
        expected = op.gradients(dy, saved)

    errors: dict[str, float] = {}
    fast_saved = None
    if forward is not None and forward.supports(*values):
        fast_y, fast_saved = forward(*values)
        errors |= outcome_errors({"y": fast_y}, {"y": y}, op.by_element)
        same = type(fast_saved) is type(saved)
        errors["type of saved"] = 0.0 if same else float("inf")
        fast_saved = fast_saved if same else None  # what a backward makes of another type is no gradient
    if fast_saved is not None:
        with use_kernels("reference"):
            gradients = op.gradients(dy, fast_saved)
        errors |= named("kernel's forward, reference's backward", gradients, expected, op.by_element)
    for origin, kept in (("reference's", saved), ("kernel's", fast_saved)):
        if kept is not None and backward is not None and backward.supports(dy, kept):
            gradients = op.by_name(backward(dy, kept))
            errors |= named(f"{origin} forward, kernel's backward", gradients, expected, op.by_element)
    if errors:
        fresh = on_device(case.arguments(seed, dtype), device)
        errors["inputs left alone"] = 0.0 if equal(fresh, arguments) else float("inf")
    label = Label(f"ops.{op.name}", case.name)
    results = []
    for what, error in errors.items():
        argument, bracket, route = what.partition(" (")
        note = f"{bracket.strip()}{route} on {package}".strip()
        results.append(label.result("kernel", dtype, argument, error, limit("kernel", dtype), note))
    return results


def compare_devices(op: Op, case: Case, dtype: Any, seed: int = 0) -> list[Result]:
    """Compare the reference on a GPU with itself on a CPU on one case: y and each gradient.

    Raises:
        BackendError: there is no GPU.
    """
    results = []
    for device in ("cuda", "cpu"):
        arguments = on_device(case.arguments(seed, dtype), device)
        with use_kernels("reference"):
            y, saved = op.forward(*arguments.values())
            results.append(outcome_of(y, op.gradients(to_device(cotangent(y, seed), device), saved)))
    return from_errors(outcome_errors(*results), Label(f"ops.{op.name}", case.name), "device", dtype, "on a GPU")


def kernel_of(function: Any, package: str) -> Any:
    """Return the kernel of an op's function on a package, or None; functions composed of ops have none of their own."""
    return function.kernel(package) if isinstance(function, Dispatched) else None


def on_device(value: Any, device: Device) -> Any:
    """Return the same structure with its arrays on a device."""
    return map_arrays(lambda array: to_device(array, device), value)


def named(
    route: str,
    gradients: Mapping[str, Array | None],
    expected: Mapping[str, Array | None],
    by_element: Collection[str],
) -> dict[str, float]:
    """Return the errors of gradients, each with the route by which it came."""
    ours, theirs = ({f"d{name}": g for name, g in found.items()} for found in (gradients, expected))
    return {f"{name} ({route})": error for name, error in outcome_errors(ours, theirs, by_element).items()}


def equal(a: Any, b: Any) -> bool:
    """Say whether two structures hold equal arrays."""
    left: list[Array] = []
    right: list[Array] = []
    map_arrays(left.append, a)
    map_arrays(right.append, b)
    return all(np.array_equal(to_numpy(x), to_numpy(y)) for x, y in zip(left, right, strict=True))
