"""Every vector is brought to mean zero and variance one, then scaled and shifted."""

import numpy as np
import pytest

from compyute_transformer.errors import DtypeError, ShapeError
from compyute_transformer.ops.norm import (
    layer_norm,
    layer_norm_backward,
    layer_norm_forward,
    rms_norm,
    rms_norm_backward,
    rms_norm_forward,
)

RNG = np.random.default_rng(0)
X, WEIGHT, BIAS = RNG.normal(size=(2, 3, 5)) * 3.0 + 7.0, RNG.normal(size=5), RNG.normal(size=5)


def test_rows_have_mean_zero_and_variance_one_before_the_weight() -> None:
    y = layer_norm(X, np.ones(5), eps=0.0)
    assert np.abs(y.mean(-1)).max() < 1e-14
    assert np.abs(y.var(-1) - 1.0).max() < 1e-14
    assert np.allclose(layer_norm(X, WEIGHT, BIAS, 0.0), y * WEIGHT + BIAS, rtol=1e-13)


def test_a_constant_row_gives_the_bias() -> None:
    assert np.array_equal(layer_norm(np.full((1, 5), 3.0), WEIGHT, BIAS), BIAS[None])


def test_the_weight_belongs_inside_the_means() -> None:
    """Pulled out of the sums, dx is right only where all weights are equal. A dx has no part along x̂ and along 1."""
    _, saved = layer_norm_forward(X, WEIGHT, BIAS, 0.0)
    dx, _, _ = layer_norm_backward(RNG.normal(size=X.shape), saved)
    assert np.abs(dx.sum(-1)).max() < 1e-14
    assert np.abs((dx * X).sum(-1)).max() < 1e-13


def test_without_a_bias_there_is_no_gradient_for_it() -> None:
    y, saved = layer_norm_forward(X, WEIGHT)
    assert layer_norm_backward(y, saved)[2] is None


def test_a_large_mean_does_not_drown_the_variance_in_float32() -> None:
    x = (RNG.normal(size=(4, 64)) + 1000.0).astype(np.float32)
    y = layer_norm(x, np.ones(64, np.float32))
    exact = layer_norm(x.astype(np.float64), np.ones(64))
    assert np.abs(y - exact).max() < 1e-3  # the mean of squares less the square of the mean would be off by 0.1


@pytest.mark.usefixtures("validation_only")
def test_wrong_shapes_and_dtypes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"layer_norm: weight must have shape \(5,\), the width of x, got \(1,\)"):
        layer_norm(X, WEIGHT[:1])
    with pytest.raises(ShapeError, match=r"layer_norm: bias must have shape \(5,\), the width of x, got \(2, 3, 5\)"):
        layer_norm(X, WEIGHT, X)
    with pytest.raises(ShapeError, match="layer_norm: x must have a last axis"):
        layer_norm(np.array(1.0), WEIGHT)
    with pytest.raises(ShapeError, match="layer_norm: x must have a last axis that is not empty"):
        layer_norm(X[..., :0], WEIGHT[:0])
    with pytest.raises(DtypeError, match=r"layer_norm: .*x: float64, weight: float32"):
        layer_norm(X, WEIGHT.astype(np.float32))
    y, saved = layer_norm_forward(X, WEIGHT, BIAS)
    with pytest.raises(ShapeError, match=r"layer_norm_backward: dy must have shape \(2, 3, 5\)"):
        layer_norm_backward(y[0], saved)


def test_rms_norm_brings_the_mean_square_to_one_and_scales() -> None:
    y = rms_norm(X, np.ones(5), eps=0.0)
    assert np.allclose((y * y).mean(-1), 1.0, rtol=1e-13)
    assert np.allclose(rms_norm(X, WEIGHT, 0.0), y * WEIGHT, rtol=1e-13)
    assert np.allclose(rms_norm(np.array([3.0, 4.0]), np.array([1.0, 2.0]), 0.0), np.array([3.0, 8.0]) / 12.5**0.5)
    assert np.allclose(rms_norm(np.zeros((1, 5)), WEIGHT), 0.0)
    assert np.array_equal(rms_norm(X, WEIGHT), rms_norm(X, WEIGHT, 1e-6))


def test_the_gradient_of_rms_norm_is_at_right_angles_to_the_row() -> None:
    _, saved = rms_norm_forward(X, WEIGHT, 0.0)
    dx, _ = rms_norm_backward(RNG.normal(size=X.shape), saved)
    assert np.abs((dx * X).sum(-1)).max() < 1e-12


def test_rms_norm_refuses_what_does_not_fit() -> None:
    with pytest.raises(ShapeError, match=r"rms_norm: weight must have shape \(5,\), the width of x, got \(1,\)"):
        rms_norm(X, WEIGHT[:1])
    with pytest.raises(ShapeError, match="rms_norm: x must have a last axis that is not empty"):
        rms_norm(X[..., :0], WEIGHT[:0])
    with pytest.raises(DtypeError, match=r"rms_norm: .*x: float64, weight: float32"):
        rms_norm(X, WEIGHT.astype(np.float32))
    y, saved = rms_norm_forward(X, WEIGHT)
    with pytest.raises(ShapeError, match=r"rms_norm_backward: dy must have shape \(2, 3, 5\)"):
        rms_norm_backward(y[0], saved)
