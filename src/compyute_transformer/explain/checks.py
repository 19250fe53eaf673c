"""Checks: chosen entries of gradients against finite differences, in float64, computed before a page is written.

    of an op          s(x) = Σ dy · op(x), with the dy that it got: ds/dx at one entry, against the op's own dx
    of a parameter    the loss of the whole model, against the gradient that the backward added up

The derivative is a four-point central difference, f′ ≈ (8 (f(h) − f(−h)) − (f(2h) − f(−2h))) / 12h. An error is
relative to the larger of both. The entry with the largest gradient is chosen.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from ..dispatch import use_kernels
from ..ops.loss import cross_entropy, cross_entropy_backward, cross_entropy_forward
from .nodes import Node
from .trace import OpCall, Trace, gradients_by_name

__all__ = ["check_ops", "check_parameters"]

STEP = 1e-4
MOST_NUMBERS = 2_000_000  # of a model with more of them only the ops are checked
MOST_PARAMETERS = 16  # spread evenly over the model


def check_ops(traced: Trace, nodes: list[Node]) -> None:
    """Add to each node of an op a check of each of its gradients."""
    calls = {call.start: call for call in traced.ops}
    with use_kernels("reference"):
        for node in nodes:
            op = node.op
            backward = None if op is None else calls.get(op.partner if op.partner is not None else -1)
            if op is not None and backward is not None:
                node.checks = _check_op(op, backward)


def _check_op(op: OpCall, backward: OpCall) -> list[dict[str, Any]]:
    inputs = {name: _double(array) for name, array in op.inputs.items()}
    y, saved = op.op.reference(**inputs, **op.options)
    dy = _double(next(iter(backward.inputs.values()))) if backward.inputs else np.float64(1.0)
    if backward.inputs and dy.shape != y.shape:
        return []
    exact = backward.op.reference(dy, saved) if backward.inputs else cross_entropy_backward(1.0, saved)
    exacts = gradients_by_name(backward.op, exact)
    found = []
    for name, recorded in backward.outputs.items():
        source, gradient = inputs.get(name[1:]), exacts.get(name)
        if source is None or gradient is None or source.dtype.kind != "f" or not recorded.size:
            continue
        place = _largest(recorded)

        def slope(moved: np.ndarray, name: str = name) -> float:
            given = {**inputs, name[1:]: moved}
            return float((dy * op.op.reference(**given, **op.options)[0]).sum())

        measured = _difference(slope, source, place)
        found.append(_result(name, place, float(recorded[place]), float(gradient[place]), measured))
    return found


def check_parameters(traced: Trace) -> dict[str, dict[str, Any]]:
    """Return a check of one entry of the gradient of up to 16 parameters, by name; none of a model that is large."""
    if sum(array.size for array in traced.parameters.values()) > MOST_NUMBERS:
        return {}
    names = list(traced.gradients)
    chosen = {names[round(i)] for i in np.linspace(0, len(names) - 1, min(MOST_PARAMETERS, len(names)))}
    model = copy.deepcopy(traced.model)
    model.zero_grad()
    model = model.to(np.float64)
    inputs = [_double(array) for array in traced.inputs.values()]
    with use_kernels("reference"):
        _, saved = cross_entropy_forward(model.train()(*inputs), traced.targets)
        model.backward(cross_entropy_backward(1.0, saved))
        model.eval()

        def loss(_: np.ndarray) -> float:
            return float(cross_entropy(model(*inputs), traced.targets))

        found = {}
        for name, parameter in model.named_parameters():
            recorded = traced.gradients.get(name)
            if name not in chosen or recorded is None or parameter.grad is None or not recorded.size:
                continue
            place = _largest(recorded)
            measured = _difference(loss, parameter.data, place)
            found[name] = _result(name, place, float(recorded[place]), float(parameter.grad[place]), measured)
    return found


def _double(array: np.ndarray) -> Any:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _largest(array: np.ndarray) -> tuple[int, ...]:
    finite = np.where(np.isfinite(array), np.abs(array), 0)
    return tuple(int(i) for i in np.unravel_index(int(finite.argmax()), array.shape))


def _difference(function: Callable[[np.ndarray], float], array: np.ndarray, place: tuple[int, ...]) -> float:
    """Return the derivative of a function by one entry of an array, which is put back afterwards."""
    before = float(array[place])
    step = STEP * max(1.0, abs(before))
    values = []
    for count in (1, -1, 2, -2):
        array[place] = before + count * step
        values.append(function(array))
    array[place] = before
    return (8 * (values[0] - values[1]) - (values[2] - values[3])) / (12 * step)


def _result(name: str, place: tuple[int, ...], recorded: float, exact: float, measured: float) -> dict[str, Any]:
    size = max(abs(exact), abs(measured))
    error = abs(exact - measured) / size if size else 0.0
    return {
        "name": name,
        "place": list(place),
        "recorded": recorded,
        "exact": exact,
        "measured": measured,
        "error": error if np.isfinite(error) else None,
    }
