"""Activation: mistakes in softmax, GELU and ReLU."""

from math import pi, sqrt

import numpy as np

from ...arrays import Array, array_module, erf
from ...ops.activation import (
    GeluSaved,
    ReluSaved,
    SoftmaxSaved,
    gelu_backward,
    relu_backward,
    softmax_backward,
    softmax_forward,
)
from .record import mistaken

__all__: list[str] = []

right_gelu_backward = gelu_backward.reference


@mistaken(
    "softmax-without-sum",
    "softmax",
    softmax_backward,
    wrong="The gradient has only the diagonal of the derivative: each probability depends on its own score alone.",
    term="the sum over j of dy y, −y · Σ_j dy_j y_j, is missing in dx",
    hint="Raise one score: what happens to the other probabilities? Add 1 to all scores: nothing changes, so each row "
    "of dx sums to zero. Does yours?",
    answer="dx = y * (dy - (dy * y).sum(-1, keepdims=True))",
)
def softmax_without_sum(dy: Array, saved: SoftmaxSaved) -> Array:
    return saved.y * dy


@mistaken(
    "softmax-wrong-axis",
    "softmax",
    softmax_forward,
    wrong="The probabilities are normalized over the first axis.",
    term="Σ_j runs over the wrong axis: the last one holds the scores that compete",
    hint="Sum your probabilities over the last axis. Which numbers have to come out?",
    answer="y = exp(x - x.max(-1, keepdims=True)); y /= y.sum(-1, keepdims=True)",
)
def softmax_wrong_axis(x: Array) -> tuple[Array, SoftmaxSaved]:
    xp, axis = array_module(x), max(0, x.ndim - 2)
    y = xp.exp(x - xp.maximum(x.max(axis, keepdims=True), -1e300))
    total = y.sum(axis, keepdims=True)
    y = y / xp.where(total == 0, x.dtype.type(1), total)
    return y, SoftmaxSaved(y)


@mistaken(
    "softmax-without-shift",
    "softmax",
    softmax_forward,
    wrong="The exponential is taken of the scores as they are, and overflows where they are large.",
    term="the shift by max x in exp(x − max x) is missing",
    hint="exp(1000) is infinite, and infinite divided by infinite is NaN. Which number can be subtracted from all "
    "scores of a row without changing the probabilities?",
    answer="y = exp(x - x.max(-1, keepdims=True)); y /= y.sum(-1, keepdims=True)",
)
def softmax_without_shift(x: Array) -> tuple[Array, SoftmaxSaved]:
    xp = array_module(x)
    with np.errstate(all="ignore"):
        y = xp.exp(x)
        y = y / y.sum(-1, keepdims=True)
    return y, SoftmaxSaved(y)


@mistaken(
    "gelu-forms-mixed",
    "gelu",
    gelu_backward,
    wrong="The backward is that of the other form: tanh for the exact GELU, exact for the one with tanh.",
    term="dx belongs to the other form of Φ: tanh and erf are mixed",
    hint="The two forms differ by less than a thousandth, so nothing looks wrong. Which one did your forward compute?",
    answer="approximate='none' has dx = dy (Φ(x) + x φ(x)) with erf; 'tanh' has the derivative of tanh",
)
def gelu_forms_mixed(dy: Array, saved: GeluSaved) -> Array:
    other = GeluSaved(saved.x, "none" if saved.approximate == "tanh" else "tanh")
    return right_gelu_backward(dy, other)


@mistaken(
    "gelu-without-density",
    "gelu",
    gelu_backward,
    wrong="The gradient takes Φ(x) for a constant.",
    term="the term x φ(x) (the derivative of Φ, times x) in dx is missing",
    hint="y = x Φ(x) is a product of two functions of x. What does the product rule say?",
    answer="dx = dy * (Φ(x) + x * φ(x)), φ(x) = exp(-x²/2)/√(2π)",
)
def gelu_without_density(dy: Array, saved: GeluSaved) -> Array:
    x, approximate = saved
    if approximate == "tanh":
        return dy * 0.5 * (1.0 + array_module(x).tanh(sqrt(2.0 / pi) * (x + 0.044715 * x**3)))
    return dy * 0.5 * (1.0 + erf(x * sqrt(0.5)))


@mistaken(
    "relu-of-gradient",
    "relu",
    relu_backward,
    wrong="The backward cuts off the negative gradients instead of the gradients of negative inputs.",
    term="dx = dy where x > 0: the condition asks for dy > 0",
    hint="The gradient may well be negative. Where did the forward let x through?",
    answer="dx = dy * (x > 0)",
)
def relu_of_gradient(dy: Array, saved: ReluSaved) -> Array:
    return array_module(dy).maximum(dy, dy.dtype.type(0))
