"""Verify an op or a module of your own: every hand-written gradient against differences, in float64.

    verify.check_module(MyLayer(16), x)                       gradients of all parameters and of each float input
    verify.check_op(my_forward, my_backward, x, weight)       gradients of the float arguments

Both raise `VerificationError`, with a table that names each gradient and its error, where one exceeds its tolerance or
is missing. dy and the directions of the differences are random. Weights are redrawn for the check and restored after
it, so that no scale is 1 and no bias 0.
"""

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import numpy as np

from ..arrays import Array
from ..dispatch import use_kernels
from ..errors import VerificationError
from ..nn.module import Module
from .function import Function, of_module
from .result import Label, Result, attempt
from .slopes import compare_slopes
from .torch_models import randomize

__all__ = ["VerificationError", "check_module", "check_op"]


def check_module(module: Module, *inputs: Any, seed: int = 0, randomize_weights: bool = True) -> list[Result]:
    """Verify the gradients that a module's backward returns and gives to its parameters.

    The module is copied, made float64 and set to training mode; the given one stays as it is. Float inputs are
    differentiated, integers (ids, targets) are only passed on. Dropout drops the same elements in each run.

    inputs: of the module's forward. randomize_weights: redraw the weights; False verifies at those it has.

    Raises:
        VerificationError: a gradient exceeds its tolerance, is missing, has another shape, or the module raised.
    """
    copied: Any = deepcopy(module).to(dtype=np.float64).train()
    if randomize_weights:
        randomize(copied, seed)
    given = [np.asarray(x, np.float64) if np.asarray(x).dtype.kind == "f" else x for x in inputs]
    floats = {f"input {i}": x for i, x in enumerate(given) if isinstance(x, np.ndarray) and x.dtype.kind == "f"}
    names = [f"input {i}" if f"input {i}" in floats else None for i in range(len(given))]

    def forward(*moved: Array) -> Array:
        values = iter(moved)
        y: Array = copied(*(x if name is None else next(values) for x, name in zip(given, names, strict=True)))
        return y

    def backward(dy: Array) -> Any:
        gradients = copied.backward(dy)
        several = gradients if isinstance(gradients, tuple) else (gradients,)
        if len(several) != len(given):
            return several  # of the float inputs alone, in order
        return tuple(g for g, name in zip(several, names, strict=True) if name is not None)

    label = Label(type(module).__name__, "check")
    function = of_module(copied, floats, forward, backward)
    return _passed(attempt(label, "differences", np.float64, lambda: _slopes(function, label, seed)))


def check_op(forward: Callable[..., Any], backward: Callable[..., Any], *inputs: Any, seed: int = 0) -> list[Result]:
    """Verify a pair of functions: `y, saved = forward(*inputs)` and `gradients = backward(dy, saved)`.

    backward returns one gradient for each argument that is a float array, in order (one array, or a tuple).

    Raises:
        VerificationError: a gradient exceeds its tolerance, is missing, has another shape, or a function raised.
    """
    given = [np.asarray(x, np.float64) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x for x in inputs]
    floats = {f"input {i}": x for i, x in enumerate(given) if isinstance(x, np.ndarray) and x.dtype.kind == "f"}

    def at(values: Any) -> tuple[Array, Any]:
        return forward(*(values.get(f"input {i}", x) for i, x in enumerate(given)))  # type: ignore[no-any-return]

    def pull(values: Any, dys: Iterable[Array]) -> Any:
        found = []
        for dy in dys:
            y, saved = at(values)
            gradients = backward(dy, saved)
            several = gradients if isinstance(gradients, tuple) else (gradients,)
            found.append(dict(zip(floats, several, strict=True)))
        return y, found

    label = Label(getattr(forward, "__name__", "op"), "check")
    function = Function(floats, lambda values: at(values)[0], pull)
    return _passed(attempt(label, "differences", np.float64, lambda: _slopes(function, label, seed)))


def _slopes(function: Function, label: Label, seed: int) -> Iterable[Result]:
    with use_kernels("reference"), np.errstate(all="ignore"):
        yield from compare_slopes(function, label, seed, methods=("differences",))


def _passed(found: Iterable[Result]) -> list[Result]:
    """Return the results; raise VerificationError, with all of them as a table, where one failed or there is none."""
    results = list(found)
    if results and all(result.passed for result in results):
        return results
    width = max((len(result.argument) for result in results), default=0)
    lines = [
        f"  {r.argument:<{width}}  error {r.error:.1e}  tolerance {r.limit:.0e}  "
        f"{'within tolerance' if r.passed else 'EXCEEDS TOLERANCE'}{f'  {r.note}' if r.note else ''}"
        for r in results
    ]
    wrong = ", ".join(r.argument for r in results if not r.passed) or "nothing could be compared"
    name = results[0].name if results else "verify"
    raise VerificationError("\n".join([f"{name}: wrong gradients: {wrong}.", *lines]))
