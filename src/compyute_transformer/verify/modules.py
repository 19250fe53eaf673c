"""Every module of `nn`: gradients of all parameters and inputs, beside slopes, PyTorch, and references alone."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

from ..nn import Dropout, MultiHeadAttention
from ..random import Generator
from .examples import EXAMPLES, SLOPES, Example
from .ops import with_and_without_kernels
from .registry import cotangent
from .result import Result, Task, attempt, from_errors, gradient_errors, relative_error
from .slopes import compare_linearity, compare_slopes
from .tolerances import Method
from .torch_models import one_thread
from .torch_modules import TorchDropout, torch_weights
from .torch_ops import import_torch

__all__ = ["EXAMPLES", "Example", "tasks"]

Check = Callable[[Example, int], Iterable[Result]]


def tasks(seed: int) -> Iterator[Task]:
    """The checks of every module."""
    for name in dict.fromkeys(example.name for example in EXAMPLES):
        examples = [example for example in EXAMPLES if example.name == name]
        yield Task(f"nn.{name}", SLOPES, partial(each, examples, "complex step", by_slopes, seed))
        checks: dict[Method, Check] = {"linearity": by_linearity, "torch": by_torch, "kernel": by_kernels}
        for method, check in checks.items():
            yield Task(f"nn.{name}", (method,), partial(each, examples, method, check, seed))


def each(examples: Iterable[Example], method: Method, check: Check, seed: int) -> Iterator[Result]:
    """What a check finds on each example."""
    for example in examples:
        yield from attempt(example.label, method, np.float64, partial(check, example, seed))


def by_slopes(example: Example, seed: int) -> Iterator[Result]:
    """Each parameter and each input, in float64."""
    return compare_slopes(example.function(np.float64, seed)[1], example.label, seed, methods=example.slopes)


def by_linearity(example: Example, seed: int) -> Iterator[Result]:
    """In both dtypes."""
    for dtype in (np.float64, np.float32):
        yield from compare_linearity(example.function(dtype, seed)[1], example.label, dtype, seed)


def by_torch(example: Example, seed: int) -> Iterator[Result]:
    """The output and every gradient, in both dtypes."""
    for dtype in (np.float64, np.float32):
        with one_thread():
            yield from from_errors(torch_errors(example, dtype, seed), example.label, "torch", dtype)


def by_kernels(example: Example, seed: int) -> list[Result]:
    """The module as it runs by default beside itself on references alone."""
    errors = with_and_without_kernels(example.function(np.float32, seed)[1], seed)
    return from_errors(errors, example.label, "kernel", np.float32)


def torch_errors(example: Example, dtype: Any, seed: int) -> dict[str, float]:
    """The errors of y and of each gradient beside PyTorch's."""
    torch = import_torch()
    module, function = example.function(dtype, seed)
    weights, inputs = torch_weights(module), {n: function.inputs[n] for n in example.inputs}
    leaves = {name: torch.from_numpy(x).requires_grad_() for name, x in inputs.items()}
    generators = [inner.generator for inner in module.modules() if hasattr(inner, "generator")]
    probability = next((inner.p for inner in module.modules() if isinstance(inner, Dropout)), 0.0)
    probability = getattr(module, "dropout", probability) if isinstance(module, MultiHeadAttention) else probability
    drop = TorchDropout(generators[0], probability) if generators else TorchDropout(Generator(), 0.0)
    their_y = example.kernel(weights, list(leaves.values()), drop)
    y = function.run(function.inputs)
    dy = cotangent(y, seed)
    _, (gradients,) = function.pull(function.inputs, [dy])
    their_y.backward(torch.from_numpy(dy))
    theirs = {name: leaf.grad.numpy() for name, leaf in (weights | leaves).items() if leaf.grad is not None}
    errors = {"y": relative_error(y, their_y.detach().numpy())}
    return errors | dict(gradient_errors(gradients, {name: theirs.get(name) for name in gradients}))
