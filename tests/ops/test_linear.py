"""y = x Wᵀ + b."""

import numpy as np
import pytest

from compyute_transformer.errors import DtypeError, ShapeError
from compyute_transformer.ops.linear import linear, linear_backward, linear_forward

RNG = np.random.default_rng(0)
X, WEIGHT, BIAS = RNG.normal(size=(2, 3, 5)), RNG.normal(size=(4, 5)), RNG.normal(size=4)


def test_each_row_is_multiplied_and_shifted() -> None:
    y = linear(X, WEIGHT, BIAS)
    assert y.shape == (2, 3, 4)
    assert np.allclose(y[1, 2], [row @ X[1, 2] + b for row, b in zip(WEIGHT, BIAS, strict=True)], rtol=1e-14)
    assert np.allclose(linear(X[0, 0], WEIGHT), WEIGHT @ X[0, 0], rtol=1e-14)


def test_without_a_bias_there_is_no_gradient_for_it() -> None:
    y, saved = linear_forward(X, WEIGHT)
    assert linear_backward(y, saved)[2] is None


def test_no_rows_give_no_outputs_and_zero_gradients() -> None:
    y, saved = linear_forward(X[:0], WEIGHT, BIAS)
    dx, dweight, dbias = linear_backward(y, saved)
    assert (y.shape, dx.shape) == ((0, 3, 4), (0, 3, 5))
    assert not dweight.any()
    assert not dbias.any()


@pytest.mark.usefixtures("validation_only")
def test_wrong_shapes_and_dtypes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"linear: weight must have shape \(any, 5\), .* got \(5, 4\)"):
        linear(X, WEIGHT.T)
    with pytest.raises(ShapeError, match=r"linear: bias must have shape \(4,\), .* got \(1,\)"):
        linear(X, WEIGHT, BIAS[:1])  # which would broadcast
    with pytest.raises(ShapeError, match="linear: x must have at least one axis"):
        linear(np.array(1.0), WEIGHT)
    with pytest.raises(DtypeError, match=r"linear: .*x: float64, weight: float32, bias: float64"):
        linear(X, WEIGHT.astype(np.float32), BIAS)
    y, saved = linear_forward(X, WEIGHT, BIAS)
    with pytest.raises(ShapeError, match=r"linear_backward: dy must have shape \(2, 3, 4\)"):
        linear_backward(y[:1], saved)
    with pytest.raises(DtypeError, match="linear_backward: dy"):
        linear_backward(y.astype(np.float32), saved)
