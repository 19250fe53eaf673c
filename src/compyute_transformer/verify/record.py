"""Record: everything that verification, benchmarks and documentation must know about an op or a module, in one object.

An op is a pair of pure functions,

    NAME_forward(*inputs, **options) -> (y, saved)        NAME_backward(dy, saved) -> gradients

with one gradient for each differentiable argument, in the order of the forward's arguments, and None where the argument
was None. Its record stands in `records/TOPIC.py`, the topic being the name of the file of the op in `ops/`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..arrays import Array, to_device
from ..nn.module import Module
from ..random import Generator
from .tolerances import Method

__all__ = [
    "ELEMENTARY",
    "SLOPES",
    "Arguments",
    "Benchmark",
    "Build",
    "Case",
    "Drop",
    "ModuleCase",
    "Op",
    "Oracle",
    "Rng",
    "Sizes",
    "Tensor",
    "Weights",
    "beside",
    "case",
    "cast",
    "cotangent",
    "map_arrays",
]

Arguments: TypeAlias = dict[str, Any]  # of a forward, by name, in its order
Rng: TypeAlias = np.random.Generator
Tensor: TypeAlias = Any  # torch.Tensor, which cannot be named before torch is imported

ELEMENTARY = 4  # roundings of exp, tanh, erf, log and a root


def beside(value: Any, module: Any) -> Any:
    """Return the same structure with its arrays on the device of a module."""
    return map_arrays(lambda array: to_device(array, module.device), value)


def map_arrays(function: Callable[[Array], Any], value: Any) -> Any:
    """Return the same structure with `function` of each array: through dicts, tuples, masks and what was saved."""
    if isinstance(value, Mapping):
        return {name: map_arrays(function, item) for name, item in value.items()}
    if isinstance(value, tuple):
        items = [map_arrays(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return function(value) if hasattr(value, "dtype") else value


def cast(value: Any, dtype: Any) -> Any:
    """Return the same structure with its floats as `dtype`; integers and booleans stay."""
    return map_arrays(lambda array: array.astype(dtype) if array.dtype.kind in "fV" else array, value)


def cotangent(y: Array, seed: int = 0) -> Array:
    """Return a random dy for a y on the CPU. It is independent of x: a dy that equals x hides wrong gradients."""
    return np.asarray(np.random.default_rng([seed, 1]).normal(size=y.shape)).astype(y.dtype)


@dataclass(frozen=True)
class Case:
    """One example of a call. build: draws the arguments, in float64, from a generator of random numbers."""

    name: str
    build: Callable[[Rng], Arguments]

    def arguments(self, seed: int = 0, dtype: Any = np.float64) -> Arguments:
        """Return the arguments by name, in the forward's order: the same numbers for every dtype, rounded to it."""
        arguments: Arguments = cast(self.build(np.random.default_rng([seed, 0])), dtype)
        return arguments


def case(name: str, draw: Callable[..., Arguments], **options: Any) -> Case:
    """Return a case that calls `draw(rng, **options)`."""
    return Case(name, partial(draw, **options))


@dataclass(frozen=True)
class Oracle:
    """A PyTorch function that computes what an op computes.

    function: takes the op's arguments by name, arrays as tensors. supports: says whether it can express a case.
    """

    name: str
    function: Callable[..., Tensor]
    supports: Callable[[Arguments], bool] = lambda arguments: True


class Sizes(NamedTuple):
    """The lengths of a model at which its ops are timed. F: the hidden width. gelu: its approximation."""

    B: int
    T: int
    C: int
    H: int
    D: int
    F: int
    V: int
    dropout: float
    gelu: str

    @property
    def N(self) -> int:
        """The number of positions."""
        return self.B * self.T


@dataclass(frozen=True)
class Benchmark:
    """The work at which an op is timed.

    draw: the arguments for these sizes. shape: the same in words. flops: floating-point operations of the forward,
    for an op that multiplies matrices; 0 for one that is limited by the bytes it moves. backward: the operations of
    the backward, in forwards.
    """

    draw: Callable[[Rng, Sizes], Arguments]
    shape: Callable[[Sizes], str]
    flops: Callable[[Sizes], float] = lambda sizes: 0.0
    backward: float = 2.0


@dataclass(frozen=True)
class Op:
    """A forward, its backward, and everything that is known about them.

    differentiable: the arguments that have a gradient, in the order in which `backward` returns them.
    cases: the calls on which the op is verified.
    oracles: the PyTorch functions that it is compared with.
    roundings: the longest chain of roundings from an input through forward and backward to an element of a gradient,
        for arguments of given shapes (see `rounding`); without it, the table of tolerances alone holds.
    defaults: the documented values of the options that a caller may leave out.
    by_element: those of y and the gradients ("dx") whose elements are computed each on its own, so that they are also
        compared element by element.
    piecewise_linear: no difference errs away from a kink.
    remark: what the report says beside the results.
    benchmark: the work at which a kernel is timed; without it, that is the last case.
    """

    name: str
    forward: Callable[..., tuple[Array, Any]]
    backward: Callable[[Array, Any], Any]
    differentiable: tuple[str, ...]
    cases: tuple[Case, ...]
    oracles: tuple[Oracle, ...] = ()
    roundings: Callable[[Arguments], int] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    by_element: tuple[str, ...] = ()
    piecewise_linear: bool = False
    remark: str = ""
    benchmark: Benchmark | None = None

    def gradients(self, dy: Array, saved: Any) -> dict[str, Array | None]:
        """Return what `backward` returns, by the name of the argument it is the gradient of."""
        return self.by_name(self.backward(dy, saved))

    def by_name(self, gradients: Any) -> dict[str, Array | None]:
        """Return gradients as a backward returns them (one, or a tuple) by the names of their arguments."""
        several = gradients if isinstance(gradients, tuple) else (gradients,)
        return dict(zip(self.differentiable, several, strict=True))


Build: TypeAlias = Callable[[Generator, Generator], Module]
Weights: TypeAlias = Mapping[str, Tensor]
Drop: TypeAlias = Callable[[Tensor], Tensor]
SLOPES: tuple[Method, ...] = ("differences", "complex step", "adjoint")

B, T, S, C = 2, 5, 7, 12  # of what modules are given: batch, time, time of a memory, width


@dataclass(frozen=True)
class ModuleCase:
    """One example of a module of `nn`.

    name: the class. case: what is special about this one.
    build: makes the module from a generator of weights and one of dropout. The weights are drawn again before use.
    torch: the same in PyTorch, from the weights by path, the inputs, and a function that drops as the module will.
    inputs: their shapes by name. call: runs the module; by default on its inputs alone.
    slopes: the methods that hold; a difference would step over the kink of a ReLU.
    """

    name: str
    case: str
    build: Build
    torch: Callable[[Weights, list[Tensor], Drop], Tensor]
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {"x": (B, T, C)})
    call: Callable[..., Array] = lambda module, *inputs: module(*inputs)
    slopes: tuple[Method, ...] = SLOPES
