"""Records of norms: the ops and the modules."""

from math import prod
from typing import Any

from ...nn import LayerNorm, RMSNorm
from ...ops.norm import layer_norm_backward, layer_norm_forward, rms_norm_backward, rms_norm_forward
from ..record import ELEMENTARY, Arguments, Benchmark, C, ModuleCase, Op, Oracle, Rng, Tensor, case
from ..torch.base import functional

__all__ = ["MODULES", "OPS", "layer_norm_arguments", "torch_layer_norm"]


def layer_norm_arguments(
    rng: Rng, rows: tuple[int, ...], C: int = 5, bias: bool = True, eps: float = 1e-5
) -> Arguments:
    """Draw rows whose mean is not 0 and whose variance is not 1."""
    return {
        "x": rng.normal(size=(*rows, C)) * 2.0 + 1.0,
        "weight": rng.normal(size=C),
        "bias": rng.normal(size=C) if bias else None,
        "eps": eps,
    }


def rms_norm_arguments(rng: Rng, rows: tuple[int, ...], C: int = 5, eps: float = 1e-6) -> Arguments:
    """Draw rows whose mean square is not 1."""
    return {"x": rng.normal(size=(*rows, C)) * 2.0 + 1.0, "weight": rng.normal(size=C), "eps": eps}


def torch_layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Call torch.nn.functional.layer_norm."""
    return functional().layer_norm(x, (x.shape[-1],), weight, bias, eps)


def torch_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Call torch.nn.functional.rms_norm."""
    return functional().rms_norm(x, (x.shape[-1],), weight, eps)


def layer_norm_roundings(a: Arguments) -> int:
    """Count mean, variance, root and three products; then two means, and the sum over rows."""
    C = a["x"].shape[-1]
    forward = 2 * C + 6 + ELEMENTARY
    backward = 2 * C + 8 + prod(a["x"].shape[:-1])
    return forward + backward


def rms_norm_roundings(a: Arguments) -> int:
    """Count the mean of squares, root and two products; then one mean, and the sum over rows."""
    C = a["x"].shape[-1]
    forward = C + 5 + ELEMENTARY
    return forward + C + 6 + prod(a["x"].shape[:-1])


OPS = (
    Op(
        "layer_norm",
        layer_norm_forward,
        layer_norm_backward,
        ("x", "weight", "bias"),
        (
            case("one_row", layer_norm_arguments, rows=()),
            case("batch", layer_norm_arguments, rows=(2, 3)),
            case("no_bias", layer_norm_arguments, rows=(7,), bias=False),
            case("large_eps", layer_norm_arguments, rows=(2, 3), eps=0.5),
            case("large", layer_norm_arguments, rows=(3, 43), C=67),
        ),
        oracles=(Oracle("functional.layer_norm", torch_layer_norm),),
        roundings=layer_norm_roundings,
        defaults={"bias": None, "eps": 1e-5},
        benchmark=Benchmark(lambda rng, s: layer_norm_arguments(rng, (s.B, s.T), s.C), lambda s: f"({s.N}, {s.C})"),
    ),
    Op(
        "rms_norm",
        rms_norm_forward,
        rms_norm_backward,
        ("x", "weight"),
        (
            case("one_row", rms_norm_arguments, rows=()),
            case("batch", rms_norm_arguments, rows=(2, 3)),
            case("large_eps", rms_norm_arguments, rows=(7,), eps=0.5),
            case("large", rms_norm_arguments, rows=(3, 43), C=67),
        ),
        oracles=(Oracle("functional.rms_norm", torch_rms_norm),),
        roundings=rms_norm_roundings,
        defaults={"eps": 1e-6},
        benchmark=Benchmark(lambda rng, s: rms_norm_arguments(rng, (s.B, s.T), s.C), lambda s: f"({s.N}, {s.C})"),
    ),
)


def layer_norm_module(case: str, **options: Any) -> ModuleCase:
    return ModuleCase(
        "LayerNorm",
        case,
        lambda weights, drops: LayerNorm(C, **options),
        lambda w, x, drop: torch_layer_norm(x[0], w["weight"], w.get("bias"), options.get("eps", 1e-5)),
    )


def rms_norm_module(case: str, **options: Any) -> ModuleCase:
    return ModuleCase(
        "RMSNorm",
        case,
        lambda weights, drops: RMSNorm(C, **options),
        lambda w, x, drop: torch_rms_norm(x[0], w["weight"], options.get("eps", 1e-6)),
    )


MODULES = (
    layer_norm_module("bias"),
    layer_norm_module("no_bias", bias=False, eps=0.1),
    rms_norm_module("rows"),
    rms_norm_module("large_eps", eps=0.1),
)
