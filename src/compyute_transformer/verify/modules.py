"""Subjects of the modules: every module of `nn`, with the gradients of all its parameters and inputs.

Weights are drawn anew, so that no scale is 1 and no bias 0. Dropout is on, and drops the same elements each time.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from ..arrays import to_device
from ..nn import Dropout, Module, MultiHeadAttention
from ..random import DROPOUT, Generator
from .function import Function, of_module, randomize
from .record import ModuleCase, cotangent
from .registry import MODULES
from .result import Label, Outcome, outcome_of
from .slopes import INPUT, draw
from .subject import Check, Subject
from .tolerances import Method
from .torch.base import import_torch
from .torch.modules import TorchDropout, torch_weights

__all__ = ["ModuleSubject", "subjects"]


class ModuleSubject(Subject):
    """One case of a module."""

    def __init__(self, case: ModuleCase, seed: int = 0) -> None:
        self.case, self.seed, self.slopes = case, seed, case.slopes
        self.label = Label(f"nn.{case.name}", case.case)

    def build(self, dtype: Any) -> tuple[Module, Function]:
        """Return the module with weights of its own, and the same as a function."""
        module = self.case.build(Generator(self.seed), Generator(self.seed, DROPOUT)).to(dtype=dtype)
        randomize(module, self.seed)
        inputs = {name: draw(self.seed, INPUT, name, shape).astype(dtype) for name, shape in self.case.inputs.items()}
        return module, of_module(module, inputs, partial(self.case.call, module))

    def outcome_on_gpu(self, dtype: Any) -> Outcome:
        """Return the outcome of the same module on a GPU."""
        module, function = self.build(dtype)
        inputs = {name: to_device(function.inputs[name], "cuda") for name in self.case.inputs}
        module.to("cuda")
        moved = of_module(module, inputs, partial(self.case.call, module))
        dy = to_device(cotangent(moved.run(moved.inputs), self.seed), "cuda")
        y, (gradients,) = moved.pull(moved.inputs, [dy])
        return outcome_of(y, gradients)

    def checks(self) -> Mapping[tuple[Method, ...], Check]:
        """Return the checks that apply; the module runs on a GPU too where there is one."""
        return {**super().checks(), **self.on_gpu()}

    def function(self, dtype: Any) -> Function:
        """Return the module as a function of its parameters and inputs."""
        return self.build(dtype)[1]

    def oracles(self, dtype: Any) -> Iterator[tuple[str, Outcome]]:
        """Yield the outcome of the same module in PyTorch."""
        torch = import_torch()
        module, function = self.build(dtype)
        drop = dropout_of(module)
        dy = cotangent(function.run(function.inputs), self.seed)
        weights, inputs = torch_weights(module), {name: function.inputs[name] for name in self.case.inputs}
        leaves = {name: torch.from_numpy(x).requires_grad_() for name, x in inputs.items()}
        y = self.case.torch(weights, list(leaves.values()), drop)
        y.backward(torch.from_numpy(dy))
        theirs = {name: leaf.grad.numpy() for name, leaf in (weights | leaves).items() if leaf.grad is not None}
        yield "", outcome_of(y.detach().numpy(), {name: theirs.get(name) for name in function.inputs})


def dropout_of(module: Module) -> TorchDropout:
    """Return what drops the elements that a module will drop next."""
    generators = [inner.generator for inner in module.modules() if hasattr(inner, "generator")]
    if not generators:
        return TorchDropout(Generator(), 0.0)
    if isinstance(module, MultiHeadAttention):
        return TorchDropout(generators[0], module.dropout)
    return TorchDropout(generators[0], next(inner.p for inner in module.modules() if isinstance(inner, Dropout)))


def subjects(seed: int) -> Iterator[ModuleSubject]:
    """Yield the subjects of all modules."""
    for case in MODULES:
        yield ModuleSubject(case, seed)
