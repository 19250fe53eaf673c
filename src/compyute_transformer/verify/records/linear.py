"""Records of linear: the op and the module."""

from math import prod
from typing import Any

from ...nn import Linear
from ...ops.linear import linear_backward, linear_forward
from ..record import Arguments, Benchmark, C, ModuleCase, Op, Oracle, Rng, Tensor, case
from ..torch.base import functional

__all__ = ["MODULES", "OPS", "linear_arguments", "torch_linear"]


def linear_arguments(
    rng: Rng, rows: tuple[int, ...], inputs: int = 5, outputs: int = 4, bias: bool = True
) -> Arguments:
    """Draw rows of one width that become rows of another."""
    return {
        "x": rng.normal(size=(*rows, inputs)),
        "weight": rng.normal(size=(outputs, inputs)),
        "bias": rng.normal(size=outputs) if bias else None,
    }


def torch_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Call torch.nn.functional.linear."""
    return functional().linear(x, weight, bias)


def linear_roundings(a: Arguments) -> int:
    """Count y; dx; dweight and dbias, sums over the rows; the bias."""
    outputs, inputs = a["weight"].shape
    return inputs + outputs + prod(a["x"].shape[:-1]) + 1


OPS = (
    Op(
        "linear",
        linear_forward,
        linear_backward,
        ("x", "weight", "bias"),
        (
            case("one_row", linear_arguments, rows=()),
            case("rows", linear_arguments, rows=(7,)),
            case("batch", linear_arguments, rows=(2, 3)),
            case("no_bias", linear_arguments, rows=(2, 3), bias=False),
            case("large", linear_arguments, rows=(3, 43), inputs=67, outputs=35),
        ),
        oracles=(Oracle("functional.linear", torch_linear),),
        roundings=linear_roundings,
        defaults={"bias": None},
        benchmark=Benchmark(
            lambda rng, s: linear_arguments(rng, (s.B, s.T), s.C, s.F),
            lambda s: f"({s.N}, {s.C}) to {s.F}",
            flops=lambda s: 2.0 * s.N * s.C * s.F,
        ),
    ),
)


def linear_module(case: str, **options: Any) -> ModuleCase:
    return ModuleCase(
        "Linear",
        case,
        lambda weights, drops: Linear(C, 7, generator=weights, **options),
        lambda w, x, drop: torch_linear(x[0], w["weight"], w.get("bias")),
    )


MODULES = (linear_module("bias"), linear_module("no_bias", bias=False))
