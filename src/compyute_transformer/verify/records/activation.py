"""Records of activation: ReLU, GELU and softmax."""

import numpy as np

from ...ops.activation import (
    gated_activation_backward,
    gated_activation_forward,
    gelu_backward,
    gelu_forward,
    relu_backward,
    relu_forward,
    silu_backward,
    silu_forward,
    softmax_backward,
    softmax_forward,
)
from ..record import ELEMENTARY, Arguments, Benchmark, Op, Oracle, Rng, Tensor, case
from ..torch.base import functional

__all__ = ["OPS", "gelu_arguments", "relu_arguments", "softmax_arguments", "torch_softmax"]


def relu_arguments(rng: Rng, shape: tuple[int, ...]) -> Arguments:
    """Draw no point so near the kink at 0 that a difference would reach across it."""
    x = rng.normal(size=shape)
    return {"x": x + np.copysign(0.5, x)}


def gelu_arguments(rng: Rng, approximate: str, shape: tuple[int, ...] = (2, 3, 5)) -> Arguments:
    """Draw points on both sides of the minimum, and beyond."""
    return {"x": rng.normal(size=shape) * 2.0, "approximate": approximate}


def silu_arguments(rng: Rng, shape: tuple[int, ...]) -> Arguments:
    """Draw points on both sides of the minimum, and beyond."""
    return {"x": rng.normal(size=shape) * 2.0}


def gated_activation_arguments(rng: Rng, activation: str, shape: tuple[int, ...] = (2, 3, 5)) -> Arguments:
    """Draw gates on both sides of the minimum, and beyond."""
    return {"gate": rng.normal(size=shape) * 2.0, "up": rng.normal(size=shape), "activation": activation}


def softmax_arguments(
    rng: Rng, rows: tuple[int, ...], C: int = 5, hidden: bool = False, mean: float = 0.0
) -> Arguments:
    """Draw scores. hidden: −inf in two columns, and throughout the first rows. mean: where exp alone would overflow."""
    x = rng.normal(size=(*rows, C)) * 2.0 + mean
    if hidden:  # moving −inf moves nothing, so differences hold there too, and demand a gradient of exactly zero
        x[..., [1, 4]] = -np.inf
        x[0] = -np.inf
    return {"x": x}


def torch_relu(x: Tensor) -> Tensor:
    """Call torch.nn.functional.relu."""
    return functional().relu(x)


def torch_gelu(x: Tensor, approximate: str) -> Tensor:
    """Call torch.nn.functional.gelu."""
    return functional().gelu(x, approximate=approximate)


def torch_silu(x: Tensor) -> Tensor:
    """Call torch.nn.functional.silu."""
    return functional().silu(x)


def torch_gated_activation(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """Multiply torch.nn.functional's activation of the gate by up."""
    if activation == "silu":
        return functional().silu(gate) * up
    return functional().gelu(gate, approximate="tanh" if activation == "gelu_tanh" else "none") * up


def torch_softmax(x: Tensor) -> Tensor:
    """Call torch.nn.functional.softmax; where a row has no finite score, PyTorch gives NaN, and this zeros."""
    dead = x.isneginf().all(-1, keepdim=True)
    return functional().softmax(x.masked_fill(dead, 0.0), -1).masked_fill(dead, 0.0)


OPS = (
    Op(
        "relu",
        relu_forward,
        relu_backward,
        ("x",),
        (
            case("vector", relu_arguments, shape=(7,)),
            case("batch", relu_arguments, shape=(2, 3, 5)),
            case("large", relu_arguments, shape=(3, 43, 67)),
        ),
        oracles=(Oracle("functional.relu", torch_relu),),
        by_element=("y", "dx"),
        roundings=lambda a: 1,
        piecewise_linear=True,
        remark="ReLU is not analytic at 0, where its gradient is a definition: it is verified on either side of it.",
        benchmark=Benchmark(lambda rng, s: relu_arguments(rng, (s.B, s.T, s.F)), lambda s: f"({s.N}, {s.F})"),
    ),
    Op(
        "gelu",
        gelu_forward,
        gelu_backward,
        ("x",),
        (
            case("tanh", gelu_arguments, approximate="tanh"),
            case("exact", gelu_arguments, approximate="none"),
            case("tanh_large", gelu_arguments, approximate="tanh", shape=(3, 43, 67)),
            case("exact_large", gelu_arguments, approximate="none", shape=(3, 43, 67)),
        ),
        oracles=(Oracle("functional.gelu", torch_gelu),),
        roundings=lambda a: 2 * (ELEMENTARY + 12),
        defaults={"approximate": "none"},
        benchmark=Benchmark(
            lambda rng, s: gelu_arguments(rng, s.gelu, (s.B, s.T, s.F)), lambda s: f"({s.N}, {s.F}), {s.gelu}"
        ),
    ),
    Op(
        "silu",
        silu_forward,
        silu_backward,
        ("x",),
        (
            case("vector", silu_arguments, shape=(7,)),
            case("batch", silu_arguments, shape=(2, 3, 5)),
            case("large", silu_arguments, shape=(3, 43, 67)),
        ),
        oracles=(Oracle("functional.silu", torch_silu),),
        roundings=lambda a: 2 * (ELEMENTARY + 6),
        benchmark=Benchmark(lambda rng, s: silu_arguments(rng, (s.B, s.T, s.F)), lambda s: f"({s.N}, {s.F})"),
    ),
    Op(
        "gated_activation",
        gated_activation_forward,
        gated_activation_backward,
        ("gate", "up"),
        (
            case("silu", gated_activation_arguments, activation="silu"),
            case("gelu", gated_activation_arguments, activation="gelu"),
            case("gelu_tanh", gated_activation_arguments, activation="gelu_tanh"),
            case("silu_large", gated_activation_arguments, activation="silu", shape=(3, 43, 67)),
            case("gelu_large", gated_activation_arguments, activation="gelu", shape=(3, 43, 67)),
            case("gelu_tanh_large", gated_activation_arguments, activation="gelu_tanh", shape=(3, 43, 67)),
        ),
        oracles=(Oracle("composition", torch_gated_activation),),
        roundings=lambda a: 2 * (ELEMENTARY + 13),
        defaults={"activation": "silu"},
        benchmark=Benchmark(
            lambda rng, s: gated_activation_arguments(rng, "silu", (s.B, s.T, s.F)), lambda s: f"({s.N}, {s.F}), silu"
        ),
    ),
    Op(
        "softmax",
        softmax_forward,
        softmax_backward,
        ("x",),
        (
            case("one_row", softmax_arguments, rows=()),
            case("batch", softmax_arguments, rows=(2, 3)),
            case("hidden", softmax_arguments, rows=(3, 4), hidden=True),
            case("hidden_far_from_zero", softmax_arguments, rows=(3, 4), hidden=True, mean=1000.0),
            case("large", softmax_arguments, rows=(3, 43), C=67),
        ),
        oracles=(Oracle("functional.softmax", torch_softmax),),
        by_element=("y",),
        roundings=lambda a: 2 * a["x"].shape[-1] + ELEMENTARY + 5,
        benchmark=Benchmark(
            lambda rng, s: softmax_arguments(rng, (s.B, s.H, s.T), s.T), lambda s: f"({s.B * s.H * s.T}, {s.T})"
        ),
    ),
)
