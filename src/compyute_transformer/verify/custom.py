"""Custom: verify the gradients of a user's own module or op by finite differences, in float64."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..arrays import Array
from ..dispatch import use_kernels
from ..errors import VerificationError
from ..nn.module import Module
from .differences import STEP, directional_error
from .function import Function, of_module
from .record import cast, cotangent
from .result import Label, Result
from .tolerances import limit

__all__ = ["check_module", "check_op"]

STEPS = (STEP, STEP / 8, STEP / 64)  # a function that curves much, such as a norm of small numbers, needs a short one
NOISE = 0.1  # added to parameters: where a bias is zero, a slope along it in proportion to its size says nothing


def check_module(module: Module, *inputs: Any, seed: int = 0) -> list[Result]:
    """Verify the backward of a module: the gradients of its inputs and of all its parameters.

    A copy of the module is converted to float64, its parameters get some noise, so that none is zero, and it is put
    into training mode; dropout drops the same elements each time.
    Its output is weighted by a random dy, and each gradient is compared with the slope of the weighted output along a
    random direction. So a wrong gradient is found whatever it is, and named.

        check_module(MyAttention(embed_dim=12), x)

    inputs: those of the module's forward; arrays of floats are differentiated by, others (ids, masks) are given as they
    are. The backward returns one gradient for each array of floats, a tuple of them for several, or None for none.

    Return the results, one a gradient.

    Raises:
        VerificationError: a gradient differs from the slope by more than the tolerance, is missing, or the forward or
        backward raised; the message names each.
    """
    made = copy.deepcopy(module).to(dtype=np.float64).train()
    rng = np.random.default_rng([seed, 3])
    for parameter in made.parameters():
        parameter.data += NOISE * rng.normal(size=parameter.shape)
    given = cast(tuple(inputs), np.float64)
    floats = {f"inputs[{i}]": x for i, x in enumerate(given) if _is_float(x)}

    def forward(*moved: Array) -> Array:
        rest = iter(moved)
        y: Array = made(*(next(rest) if _is_float(x) else x for x in given))
        return y

    return _verify(type(module).__name__, of_module(made, floats, forward), seed)


def check_op(
    forward: Callable[..., tuple[Array, Any]], backward: Callable[[Array, Any], Any], *inputs: Any, seed: int = 0
) -> list[Result]:
    """Verify a pair of functions: `forward(*inputs) -> (y, saved)` and `backward(dy, saved) -> gradients`.

    inputs: arrays of floats are converted to float64 and differentiated by; others are given as they are. The backward
    returns one gradient for each array of floats, in order: one array, or a tuple.

    Return the results, and raise VerificationError, as `check_module` does.
    """
    given = cast(tuple(inputs), np.float64)
    floats = {f"inputs[{i}]": x for i, x in enumerate(given) if _is_float(x)}

    def call(values: Any) -> tuple[Array, Any]:
        return forward(*(values.get(f"inputs[{i}]", x) for i, x in enumerate(given)))

    def pull(values: Any, dys: Sequence[Array]) -> tuple[Array, list[dict[str, Array | None]]]:
        y, saved = call(values)
        found = []
        for dy in dys:
            gradients = backward(dy, saved)
            several = gradients if isinstance(gradients, tuple) else (gradients,)
            found.append(dict(zip(floats, several, strict=True)))
        return y, found

    function = Function(floats, lambda values: call(values)[0], pull)
    return _verify(getattr(forward, "__name__", "forward"), function, seed)


def _or_infinite(error: float) -> float:
    return error if error == error else float("inf")


def _is_float(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


def _verify(name: str, function: Function, seed: int) -> list[Result]:
    with use_kernels("reference"):
        try:
            results = list(_results(name, function, seed))
        except Exception as error:
            raise VerificationError(
                f"{name}: the forward or backward raised {type(error).__name__}: {error}"
            ) from error
    wrong = [result for result in results if not result.passed]
    if wrong:
        lines = "\n  ".join(f"{r.argument}: relative error {r.error:.2g}{r.note and f' ({r.note})'}" for r in wrong)
        raise VerificationError(
            f"{name}: {len(wrong)} of {len(results)} gradients differ from finite differences by more than "
            f"{wrong[0].limit:g}:\n  {lines}\nThe other gradients are right."
        )
    return results


def _results(name: str, function: Function, seed: int) -> Iterator[Result]:
    label, allowed = Label(name, "custom"), limit("differences", np.float64)
    y = function.run(function.inputs)
    dy = cotangent(y, seed)
    _, (gradients,) = function.pull(function.inputs, [dy])
    for path, x in function.inputs.items():
        gradient = gradients.get(path)
        if gradient is None or gradient.shape != x.shape:
            note = "there is no gradient" if gradient is None else f"shape {gradient.shape} instead of {x.shape}"
            yield label.result("differences", np.float64, f"d{path}", float("inf"), allowed, note)
            continue

        def at(moved: Array, path: str = path) -> Array:
            return function.run({**function.inputs, path: moved})

        error = min((directional_error(at, [gradient], [x], dy, seed, step) for step in STEPS), key=_or_infinite)
        yield label.result("differences", np.float64, f"d{path}", error, allowed)
