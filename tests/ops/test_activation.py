"""ReLU, GELU and softmax."""

from math import erf, exp, pi, sqrt, tanh

import numpy as np
import pytest

from compyute_transformer.errors import DtypeError, RangeError, ShapeError
from compyute_transformer.ops.activation import (
    gated_activation,
    gated_activation_backward,
    gated_activation_forward,
    gelu,
    gelu_backward,
    gelu_forward,
    relu,
    relu_backward,
    relu_forward,
    silu,
    silu_backward,
    silu_forward,
    softmax,
    softmax_backward,
    softmax_forward,
)

X = np.random.default_rng(0).normal(size=(2, 3, 5))
POINTS = [-9.0, -2.5, -0.7, 0.0, 0.3, 1.0, 4.0, 12.0]


def test_relu_keeps_what_is_positive_and_the_kink_has_gradient_zero() -> None:
    y, saved = relu_forward(np.array([-2.0, 0.0, 3.0]))
    assert np.array_equal(y, [0.0, 0.0, 3.0])
    assert np.array_equal(relu_backward(np.array([5.0, 5.0, 5.0]), saved), [0.0, 0.0, 5.0])
    assert saved.positive.dtype == bool


def test_gelu_is_the_formula_of_each_form() -> None:
    exact = [x * 0.5 * (1 + erf(x / sqrt(2))) for x in POINTS]
    by_tanh = [0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) for x in POINTS]
    assert np.allclose(gelu(np.array(POINTS), "none"), exact, rtol=1e-13, atol=1e-300)
    assert np.allclose(gelu(np.array(POINTS), "tanh"), by_tanh, rtol=1e-13, atol=1e-300)
    assert np.array_equal(gelu(X), gelu(X, "none"))


def test_the_forms_of_gelu_differ_so_that_one_cannot_pass_for_the_other() -> None:
    assert np.abs(gelu(X, "none") - gelu(X, "tanh")).max() > 1e-4


@pytest.mark.parametrize("form", ["tanh", "none"])
def test_gelu_far_out_is_the_identity_or_zero_with_no_nan(form: str) -> None:
    y, saved = gelu_forward(np.array([-60.0, 60.0], np.float32), form)
    assert np.array_equal(y, [0.0, 60.0])
    assert np.array_equal(gelu_backward(np.ones(2, np.float32), saved), [0.0, 1.0])


def test_softmax_gives_shares_of_one() -> None:
    y = softmax(X)
    assert np.abs(y.sum(-1) - 1.0).max() < 1e-15
    wanted = [exp(x) for x in X[1, 2]]
    assert np.allclose(y[1, 2], np.array(wanted) / sum(wanted), rtol=1e-14)


def test_softmax_of_large_scores_does_not_overflow() -> None:
    y = softmax(np.array([[1000.0, 999.0, -1000.0]], np.float32))
    assert np.allclose(y, softmax(np.array([[1.0, 0.0, -1999.0]])))
    assert y[0, 2] == 0.0


def test_softmax_of_hidden_scores_is_exactly_zero_with_gradient_zero() -> None:
    y, saved = softmax_forward(np.array([[1.0, -np.inf, 2.0], [-np.inf, -np.inf, -np.inf]]))
    dx = softmax_backward(np.array([[3.0, 4.0, 5.0], [3.0, 4.0, 5.0]]), saved)
    assert y[0, 1] == dx[0, 1] == 0.0
    assert np.isclose(y[0].sum(), 1.0)
    assert not y[1].any()
    assert not dx[1].any()


@pytest.mark.usefixtures("validation_only")
def test_wrong_input_is_refused() -> None:
    with pytest.raises(RangeError, match=r"gelu: approximate is 'none' \(exact\) or 'tanh', got 'erf'"):
        gelu(X, "erf")  # type: ignore[arg-type]
    for op in (relu, gelu, softmax):
        with pytest.raises(DtypeError, match=f"{op.__name__}: .* got x: int64"):
            op(np.zeros((2, 3), np.int64))
    for shape in ((), (3, 0)):
        with pytest.raises(ShapeError, match="softmax: x must have a last axis that is not empty"):
            softmax(np.zeros(shape))
    for forward, backward in (
        (relu_forward, relu_backward),
        (gelu_forward, gelu_backward),
        (softmax_forward, softmax_backward),
    ):
        _, saved = forward(X)
        with pytest.raises(
            ShapeError, match=r"_backward: dy must have shape \(2, 3, 5\), the shape of y, got \(3, 5\)"
        ):
            backward(X[0], saved)


def test_silu_is_the_formula() -> None:
    assert np.allclose(silu(np.array(POINTS)), [x / (1 + exp(-x)) for x in POINTS], rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_silu_far_out_is_the_identity_or_zero_with_no_nan(dtype: type) -> None:
    y, saved = silu_forward(np.array([-800.0, 800.0], dtype))
    assert np.array_equal(y, [0.0, 800.0])
    assert np.array_equal(silu_backward(np.ones(2, dtype), saved), [0.0, 1.0])


@pytest.mark.parametrize("wild", [np.nan, np.inf])
def test_what_is_not_finite_does_not_vanish_in_silu(wild: float) -> None:
    y = silu(np.array([wild], np.float32))
    assert np.array_equal(y, [wild], equal_nan=True)


def test_a_gate_is_an_activation_times_the_other_input() -> None:
    up = X[::-1] + 1.0
    assert np.allclose(gated_activation(X, up), silu(X) * up, rtol=1e-14)
    assert np.allclose(gated_activation(X, up, "gelu"), gelu(X, "none") * up, rtol=1e-14)
    assert np.allclose(gated_activation(X, up, "gelu_tanh"), gelu(X, "tanh") * up, rtol=1e-14)


def test_a_gate_refuses_what_does_not_fit() -> None:
    with pytest.raises(ShapeError, match=r"gated_activation: up must have shape \(2, 3, 5\), the shape of gate"):
        gated_activation(X, X[0])
    with pytest.raises(RangeError, match="activation is one of silu, gelu, gelu_tanh, got 'relu'"):
        gated_activation(X, X, "relu")  # type: ignore[arg-type]
    with pytest.raises(DtypeError, match="gate: float64, up: float32"):
        gated_activation(X, X.astype(np.float32))
    y, saved = gated_activation_forward(X, X)
    with pytest.raises(ShapeError, match="gated_activation_backward: dy must have shape"):
        gated_activation_backward(y[0], saved)


def test_a_gate_of_one_number_without_axes_has_a_gradient() -> None:
    _, saved = gated_activation_forward(np.array(0.5), np.array(2.0))
    dgate, dup = gated_activation_backward(np.array(3.0), saved)
    _, of_silu = silu_forward(np.array(0.5))
    assert np.allclose([dgate, dup], [silu_backward(np.array(6.0), of_silu), 3.0 * silu(np.array(0.5))])
