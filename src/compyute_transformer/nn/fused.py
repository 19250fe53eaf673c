"""Fused: what modules do at once by kernels in place of the lines of their forward and backward.

    added         a sum of two large arrays, by all threads of a CPU
    normalized    a norm whose result products alone read writes it as they round it, on a GPU
    or_at_once    an activation along with the products of a feed-forward network, on a GPU or in bfloat16 on a CPU

Elsewhere, and where a module is none of ours or is observed, the lines run as they are written. `tests/gpu` plants
mistakes here and in the kernels behind it.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, NamedTuple

from ..arrays import Array, device_of
from ..dispatch import is_intercepted, kernels_of
from ..ops.activation import gelu_forward
from ..ops.linear import linear_forward
from ..precision import precision, rounded_results
from .linear import Linear
from .module import Module
from .parameter import is_trained

__all__ = [
    "Definitions",
    "added",
    "backward_at_once",
    "definitions_of",
    "forward_at_once",
    "fused_kernels",
    "has_backward_of_forward",
    "normalized",
    "or_at_once",
    "runs_as_defined",
]

LARGE = 1 << 18  # numbers, whose addition all threads of a CPU may be worth


def added(x: Array, branch: Array) -> Array:
    """Return x + branch."""
    if x.size >= LARGE and device_of(x) == device_of(branch) == "cpu" and linear_forward.runs("cpu") == "cpu":
        kernels = kernels_of("cpu", "addition")
        if kernels.supports(x, branch):
            total: Array = kernels.add(x, branch)
            return total
    total = x + branch
    return total


def normalized(norm: Module, x: Array, reader: Module) -> Array:
    """Return norm(x), on a GPU already rounded where products of the reader alone read it; see `precision`."""
    y: Array
    if precision() != "bfloat16":
        y = norm(x)
        return y
    with rounded_results(reader.training and getattr(reader, "reads_rounded", False)):
        y = norm(x)
    return y


class Fused(NamedTuple):
    """kernels: which computed a forward at once. saved: what their backward needs."""

    kernels: Any
    saved: Any


def or_at_once(at_once: Callable[..., Array | None]) -> Callable[[Any], Any]:
    """Decorate a forward or backward: return what `at_once` returns, or run its lines where that is None."""

    def decorate(lines: Callable[..., Array]) -> Callable[..., Array]:
        @wraps(lines)
        def run(self: Any, array: Array) -> Array:
            found = at_once(self, array)
            return lines(self, array) if found is None else found

        return run

    return decorate


Definitions = Mapping[type, tuple[Any, Any]]


def definitions_of(*kinds: Any) -> Definitions:
    """Return the forward and backward of some classes of modules, as they are now."""
    return {kind: (kind.forward, kind.backward) for kind in kinds}


def runs_as_defined(part: Any, definitions: Definitions) -> bool:
    """Return whether a part is of one of the classes, and neither replaced in it nor in its class, nor watched."""
    kind = type(part)
    if kind not in definitions or (kind.forward, kind.backward) != definitions[kind]:
        return False
    return not part._observers and "forward" not in part.__dict__ and "backward" not in part.__dict__


LINEAR = definitions_of(Linear)


def has_backward_of_forward(module: Any) -> bool:
    """Return whether one class defines forward and backward: a backward of a subclass's own needs what lines save."""
    kinds = type(module).__mro__
    forward, backward = (next(kind for kind in kinds if name in vars(kind)) for name in ("forward", "backward"))
    return forward is backward


def fused_kernels(module: Any, x: Array) -> Any:
    """Return the kernels that compute a feed-forward network at once, forward and backward, where they can; or None.

    They leave out `up` and `down`, so these must be plain linear layers that nobody observes, of the same precision.
    """
    parts, device = (module.up, module.down), device_of(x)
    if not module.training or is_intercepted() or not has_backward_of_forward(module):
        return None
    if device == "cpu" and precision() != "bfloat16":
        return None
    plain = all(runs_as_defined(part, LINEAR) and part.precision in (None, precision()) for part in parts)
    if not plain or any(op.runs(device) != device for op in (linear_forward, gelu_forward)):
        return None
    kernels = kernels_of(device, "feed_forward")
    given = x, module.up.weight.data, module.down.weight.data, module.activation
    return kernels if kernels.supports(*given) else None


def forward_at_once(module: Any, x: Array) -> Array | None:
    """Return the output of a feed-forward network, and save what its backward needs; None where its lines run."""
    kernels = fused_kernels(module, x)
    if kernels is None:
        return None
    weights = ((part.weight.data, part.bias.data if part.bias else None) for part in (module.up, module.down))
    (up, up_bias), (down, down_bias) = weights
    y: Array
    y, saved = kernels.feed_forward_forward(x, up, up_bias, down, down_bias, module.activation)
    module.save_for_backward(Fused(kernels, saved))
    return y


def backward_at_once(module: Any, dy: Array) -> Array | None:
    """Return the gradient of the input of `forward_at_once`, and add to those of the parameters; None after another."""
    if not module._saved or not isinstance(module._saved[-1], Fused):
        return None
    kernels, saved = module.pop_saved()
    parameters = module.up.weight, module.up.bias, module.down.weight, module.down.bias
    dx: Array
    dx, *gradients = kernels.feed_forward_backward(dy, saved, tuple(map(is_trained, parameters)))
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if parameter is not None:
            parameter.accumulate(gradient)
    return dx
