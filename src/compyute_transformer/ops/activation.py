"""Activation: the nonlinear functions between linear maps, and softmax, which turns scores into probabilities."""

from collections.abc import Callable
from functools import partial
from math import pi, sqrt
from typing import Any, Literal, NamedTuple, get_args

from jaxtyping import Float

from ..arrays import Array, array_module, erf
from ..dispatch import dispatched, output_of
from ..errors import RangeError
from ._checks import check_floats, check_gradient, check_last_axis, check_saved, check_shape, shown

__all__ = [
    "ACTIVATIONS",
    "GATES",
    "Activation",
    "Approximation",
    "Gate",
    "GatedActivationSaved",
    "GeluSaved",
    "ReluSaved",
    "SiluSaved",
    "SoftmaxSaved",
    "gated_activation",
    "gated_activation_backward",
    "gated_activation_forward",
    "gelu",
    "gelu_backward",
    "gelu_forward",
    "relu",
    "relu_backward",
    "relu_forward",
    "silu",
    "silu_backward",
    "silu_forward",
    "softmax",
    "softmax_backward",
    "softmax_forward",
]

Activation = Literal["gelu_tanh", "gelu", "relu"]
Approximation = Literal["tanh", "none"]
Gate = Literal["silu", "gelu", "gelu_tanh"]


class ReluSaved(NamedTuple):
    """positive: where x was above zero, one byte an element."""

    positive: Array


def check_relu(x: Any) -> None:
    check_floats("relu", x=x)


@dispatched(validate=check_relu)
def relu_forward(x: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], ReluSaved]:
    """Keep what is positive.

    y = max(x, 0)
    dx = dy where x > 0, else 0; at x = 0 the gradient is taken as 0

    Shapes:
        x, y any shape, float.
    Saves:
        a boolean an element.
    Raises:
        DtypeError: x does not hold floats.
    Source:
        Nair, Hinton 2010, "Rectified linear units improve restricted Boltzmann machines".
    """
    return array_module(x).maximum(x, x.dtype.type(0)), ReluSaved(x > 0)


def check_relu_backward(dy: Any, saved: Any) -> None:
    check_saved("relu_backward", saved, ReluSaved)
    check_gradient("relu_backward", dy, None, saved.positive.shape)


@dispatched(validate=check_relu_backward)
def relu_backward(dy: Float[Array, "*shape"], saved: ReluSaved) -> Float[Array, "*shape"]:
    """Return the gradient of `relu_forward`: dx.

    dx = dy where x > 0, else 0: also at x = 0, where ReLU has no slope

    Shapes:
        dy, dx as x, of any shape.
    Raises:
        ShapeError: dy has not the shape of x. InputError: saved is of another op.
    """
    return dy * saved.positive


relu = output_of("relu", relu_forward)


class GeluSaved(NamedTuple):
    """x: the input. approximate: which of the two forms."""

    x: Array
    approximate: Approximation


SQRT_2_OVER_PI = sqrt(2.0 / pi)
CUBIC = 0.044715


def check_gelu(x: Any, approximate: Any = "none") -> None:
    check_floats("gelu", x=x)
    if not isinstance(approximate, str) or approximate not in get_args(Approximation):
        raise RangeError(f"gelu: approximate is 'none' (exact) or 'tanh', got {shown(approximate)}.")


@dispatched(validate=check_gelu)
def gelu_forward(
    x: Float[Array, "*shape"], approximate: Approximation = "none"
) -> tuple[Float[Array, "*shape"], GeluSaved]:
    """Weigh x by the chance that a standard normal number lies below it.

    "none": y = x Φ(x), Φ(x) = ½ (1 + erf(x/√2)); dx = dy (Φ(x) + x φ(x)), φ(x) = exp(−x²/2)/√(2π)
    "tanh": y = ½ x (1 + tanh u), u = √(2/π) (x + 0.044715 x³)
            dx = dy (½ (1 + tanh u) + ½ x (1 − tanh² u) u′), u′ = √(2/π) (1 + 3 · 0.044715 x²)

    Shapes:
        x, y any shape, float.
    Saves:
        x, no copy.
    Raises:
        RangeError: an unknown form. DtypeError: x does not hold floats.
    Source:
        Hendrycks, Gimpel 2016, "Gaussian error linear units". GPT-2 uses "tanh", ViT and nanoGPT "none". The names
        are those of torch.nn.functional.gelu.
    """
    if approximate == "tanh":
        xp = array_module(x)
        y = 0.5 * x * (1.0 + xp.tanh(SQRT_2_OVER_PI * (x + CUBIC * x * x * x)))
    else:
        y = 0.5 * x * (1.0 + erf(x * sqrt(0.5)))
    return y, GeluSaved(x, approximate)


def check_gelu_backward(dy: Any, saved: Any) -> None:
    check_saved("gelu_backward", saved, GeluSaved)
    check_gradient("gelu_backward", dy, saved.x, saved.x.shape)


@dispatched(validate=check_gelu_backward)
def gelu_backward(dy: Float[Array, "*shape"], saved: GeluSaved) -> Float[Array, "*shape"]:
    """Return the gradient of `gelu_forward`: dx.

    dx = dy · (Φ(x) + x φ(x)), φ being the density of the normal distribution; for "tanh" the slope of its formula

    Shapes:
        dy, dx as x, of any shape.
    Raises:
        ShapeError, DtypeError: dy has not the shape or the dtype of x. InputError: saved is of another op.
    """
    x, approximate = saved
    xp = array_module(dy, x)
    if approximate == "tanh":
        squared = x * x
        tanh = xp.tanh(SQRT_2_OVER_PI * x * (1.0 + CUBIC * squared))
        slope = SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * squared)
        return dy * (0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * slope)
    below = 0.5 * (1.0 + erf(x * sqrt(0.5)))
    density = xp.exp(-0.5 * x * x) * (1.0 / sqrt(2.0 * pi))
    return dy * (below + x * density)


gelu = output_of("gelu", gelu_forward)


# The activations of a feed-forward, by their names in a configuration: "gelu_tanh" is GPT-2's, "gelu" the exact one.
ACTIVATIONS: dict[Activation, tuple[Callable[..., tuple[Array, Any]], Callable[..., Array]]] = {
    "gelu_tanh": (partial(gelu_forward, approximate="tanh"), gelu_backward),
    "gelu": (partial(gelu_forward, approximate="none"), gelu_backward),
    "relu": (relu_forward, relu_backward),
}


class SiluSaved(NamedTuple):
    """x: the input."""

    x: Array


def logistic(x: Array) -> Array:
    """Return σ(x) = 1/(1 + exp(−x)), by the exponential that is at most 1, which cannot overflow."""
    xp = array_module(x)
    negative = x.real < 0  # x may be complex, where a check takes a complex step
    small = xp.exp(xp.where(negative, x, -x))
    y: Array = xp.where(negative, small, small.dtype.type(1)) / (1 + small)
    return y


def check_silu(x: Any) -> None:
    check_floats("silu", x=x)


@dispatched(validate=check_silu)
def silu_forward(x: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], SiluSaved]:
    """Weigh x by the logistic function of itself; also called swish.

    y = x σ(x), σ(x) = 1/(1 + exp(−x))
    dx = dy σ(x) (1 + x (1 − σ(x)))

    Shapes:
        x, y any shape, float.
    Saves:
        x, no copy.
    Raises:
        DtypeError: x does not hold floats.
    Source:
        Elfwing, Uchibe, Doya 2017, "Sigmoid-weighted linear units for neural network function approximation in
        reinforcement learning".
    """
    return x * logistic(x), SiluSaved(x)


def check_silu_backward(dy: Any, saved: Any) -> None:
    check_saved("silu_backward", saved, SiluSaved)
    check_gradient("silu_backward", dy, saved.x, saved.x.shape)


@dispatched(validate=check_silu_backward)
def silu_backward(dy: Float[Array, "*shape"], saved: SiluSaved) -> Float[Array, "*shape"]:
    """Return the gradient of `silu_forward`: dx.

    dx = dy · σ(x) (1 + x (1 − σ(x))), σ being the logistic function

    Shapes:
        dy, dx as x, of any shape.
    Raises:
        ShapeError, DtypeError: dy has not the shape or the dtype of x. InputError: saved is of another op.
    """
    x = saved.x
    weight = logistic(x)
    return dy * weight * (1 + x * (1 - weight))


silu = output_of("silu", silu_forward)


# The activations of a gate, by their names in a configuration; with "silu" the gated feed-forward is called SwiGLU.
GATES: dict[Gate, tuple[Callable[..., tuple[Array, Any]], Callable[..., Array]]] = {
    "silu": (silu_forward, silu_backward),
    "gelu": (partial(gelu_forward, approximate="none"), gelu_backward),
    "gelu_tanh": (partial(gelu_forward, approximate="tanh"), gelu_backward),
}


class GatedActivationSaved(NamedTuple):
    """gate, up: the inputs. activation: that of the gate."""

    gate: Array
    up: Array
    activation: Gate


def check_gated_activation(gate: Any, up: Any, activation: Any = "silu") -> None:
    op = "gated_activation"
    check_floats(op, gate=gate, up=up)
    check_shape(op, "up", up, gate.shape, "the shape of gate")
    if not isinstance(activation, str) or activation not in GATES:
        raise RangeError(f"{op}: activation is one of {', '.join(GATES)}, got {shown(activation)}.")


@dispatched(validate=check_gated_activation)
def gated_activation_forward(
    gate: Float[Array, "*shape"], up: Float[Array, "*shape"], activation: Gate = "silu"
) -> tuple[Float[Array, "*shape"], GatedActivationSaved]:
    """Multiply each element by the activation of its gate.

    y = a(gate) · up, a = silu (SwiGLU), gelu or gelu_tanh (GeGLU)
    dgate = dy · up · a′(gate); dup = dy · a(gate)

    Shapes:
        gate, up, y any one shape, float.
    Saves:
        gate and up, no copies; a(gate) is rebuilt.
    Raises:
        ShapeError: shapes differ. RangeError: an unknown activation. DtypeError: dtypes differ.
    Source:
        Shazeer 2020, "GLU variants improve transformer"; gate is x W and up is x V in the paper.
    """
    forward, _ = GATES[activation]
    return forward(gate)[0] * up, GatedActivationSaved(gate, up, activation)


def check_gated_activation_backward(dy: Any, saved: Any) -> None:
    check_saved("gated_activation_backward", saved, GatedActivationSaved)
    check_gradient("gated_activation_backward", dy, saved.gate, saved.gate.shape)


@dispatched(validate=check_gated_activation_backward)
def gated_activation_backward(
    dy: Float[Array, "*shape"], saved: GatedActivationSaved
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Return the gradients of `gated_activation_forward`: dgate, dup.

    dgate = dy · up · activation′(gate); dup = dy · activation(gate)

    Shapes:
        dy, dgate, dup as gate and up, of any shape.
    Raises:
        ShapeError, DtypeError: dy has not the shape or the dtype of gate. InputError: saved is of another op.
    """
    gate, up, activation = saved
    forward, backward = GATES[activation]
    activated, activation_saved = forward(gate)
    dactivated = array_module(dy).asarray(dy * up)  # of one number without axes, the product is no array
    return backward(dactivated, activation_saved), dy * activated


gated_activation = output_of("gated_activation", gated_activation_forward)


class SoftmaxSaved(NamedTuple):
    """y: the probabilities."""

    y: Array


def check_softmax(x: Any) -> None:
    check_floats("softmax", x=x)
    check_last_axis("softmax", "x", x)


@dispatched(validate=check_softmax)
def softmax_forward(x: Float[Array, "*rows C"]) -> tuple[Float[Array, "*rows C"], SoftmaxSaved]:
    """Turn each row of scores into probabilities that sum to one.

    yᵢ = exp(xᵢ − max x) / Σⱼ exp(xⱼ − max x)
    dx = y · (dy − Σⱼ dyⱼ yⱼ)

    A score of −inf gives a probability of exactly zero. A row of nothing but −inf gives zeros, and zero gradients.

    Shapes:
        x, y (*rows, C) float, over the last axis.
    Saves:
        y, no copy.
    Raises:
        DtypeError: x does not hold floats. ShapeError: x has no last axis, or an empty one.
    Source:
        Bridle 1990, "Probabilistic interpretation of feedforward classification network outputs".
    """
    xp = array_module(x)
    highest = x.max(-1, keepdims=True)
    # −inf − (−inf) would be NaN: a row without a finite score is measured from 0 instead, where exp gives zeros
    y = xp.exp(x - xp.where(highest.real == -xp.inf, x.dtype.type(0), highest))
    total = y.sum(-1, keepdims=True)
    y /= xp.where(total == 0, x.dtype.type(1), total)
    return y, SoftmaxSaved(y)


def check_softmax_backward(dy: Any, saved: Any) -> None:
    check_saved("softmax_backward", saved, SoftmaxSaved)
    check_gradient("softmax_backward", dy, saved.y, saved.y.shape)


@dispatched(validate=check_softmax_backward)
def softmax_backward(dy: Float[Array, "*rows C"], saved: SoftmaxSaved) -> Float[Array, "*rows C"]:
    """Return the gradient of `softmax_forward`: dx.

    dx = y · (dy − Σ dy · y), the sum over a row

    Shapes:
        dy, dx (*rows, C) as y.
    Raises:
        ShapeError, DtypeError: dy has not the shape or the dtype of y. InputError: saved is of another op.
    """
    y = saved.y
    return y * (dy - (dy * y).sum(-1, keepdims=True))


softmax = output_of("softmax", softmax_forward)
