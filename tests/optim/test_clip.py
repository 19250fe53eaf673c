"""Clipping by the global norm beside torch.nn.utils.clip_grad_norm_."""

import numpy as np
import pytest
import torch

from compyute_transformer.errors import RangeError
from compyute_transformer.nn import Linear, Parameter
from compyute_transformer.optim import clip_grad_norm_
from compyute_transformer.optim.clip import PIECE, global_norm
from compyute_transformer.verify import relative_error


def clip(gradient: np.ndarray, max_norm: float) -> float:
    """Clip one array as the gradient of one parameter."""
    parameter = Parameter(np.zeros(gradient.shape))
    parameter.grad = gradient
    return clip_grad_norm_([parameter], max_norm)


TORCH_EPS = 1e-6  # torch divides by ‖g‖ + 1e-6, we by ‖g‖


@pytest.mark.parametrize(("dtype", "allowed"), [(np.float64, 1e-12), (np.float32, 1e-6)])
@pytest.mark.parametrize("max_norm", [0.1, 1.0, 100.0])
def test_norm_and_gradient_are_those_of_torch(max_norm: float, dtype: type, allowed: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        gradient = (rng.normal(size=50) * 10.0 ** rng.uniform(-2, 2)).astype(dtype)
        parts = [torch.from_numpy(part.copy()) for part in (gradient[:20], gradient[20:].reshape(3, 10))]
        theirs = [torch.zeros_like(part).requires_grad_() for part in parts]
        for their, part in zip(theirs, parts, strict=True):
            their.grad = part
        their_norm = torch.nn.utils.clip_grad_norm_(theirs, max_norm).item()
        norm = clip(gradient, max_norm)
        expected = np.concatenate([part.numpy().reshape(-1) for part in parts])
        if norm > max_norm:
            expected = expected * ((norm + TORCH_EPS) / norm)
        assert norm == pytest.approx(their_norm, rel=allowed)
        assert relative_error(gradient, expected) <= allowed
        assert gradient.dtype == dtype


def test_a_long_gradient_keeps_its_direction_and_a_short_one_every_bit() -> None:
    gradient = np.array([3.0, -4.0])
    assert clip(gradient, 1.0) == 5.0
    assert np.allclose(gradient, [0.6, -0.8], rtol=1e-15)
    for at_most in (np.array([0.6, -0.8]), np.zeros(3)):
        before = at_most.copy()
        clip(at_most, 1.0)
        assert np.array_equal(at_most, before)


def test_the_norm_is_that_of_all_elements_together() -> None:
    assert global_norm(np.full(16, 0.5)) == 2.0
    assert global_norm(np.zeros(0)) == 0.0


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_reported_by_its_norm_and_left_as_it_came(broken: float) -> None:
    gradient = np.array([3.0, broken])
    assert not np.isfinite(clip(gradient, 1.0))
    assert np.array_equal(gradient, [3.0, broken], equal_nan=True)


@pytest.mark.parametrize("max_norm", [0.0, -1.0, float("nan")])
def test_a_limit_that_is_not_above_zero_is_refused(max_norm: float) -> None:
    gradient = np.ones(3)
    with pytest.raises(RangeError, match="max_norm is above 0"):
        clip(gradient, max_norm)
    assert (gradient == 1.0).all()


def test_the_length_of_a_long_gradient_is_exact() -> None:
    """In float32 the sum of so many squares loses four digits."""
    gradient = np.full(30_000_000, 1e-4, np.float32)
    gradient[::7] = 3e-4
    exact = np.sqrt(np.square(gradient[:70].astype(np.float64)).mean() * gradient.size)
    assert abs(global_norm(gradient) / exact - 1) <= 2e-6
    assert abs(float(np.sqrt(gradient @ gradient)) / exact - 1) > 1e-5


def test_many_short_pieces_are_not_lost_beside_a_long_one() -> None:
    gradient = np.zeros(129 * PIECE, np.float32)
    gradient[::PIECE] = np.sqrt(5e-8)  # whose squares, one by one, float32 does not see beside 1
    gradient[0] = 1.0
    assert abs(global_norm(gradient) - np.sqrt(1.0 + 128 * 5e-8)) <= 2e-8


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("fraction", [0.3, 1e-3])
def test_squares_that_overflow_or_vanish_do_not_spoil_the_norm(dtype: type, fraction: float) -> None:
    """The largest numbers of a dtype times a fraction, and their inverses: each is finite, its square is not."""
    for value in (float(np.finfo(dtype).max) * fraction, 1.0 / (float(np.finfo(dtype).max) * fraction)):
        gradient = np.full(4, value, dtype)
        value = float(gradient[0])
        assert abs(global_norm(gradient) / (2 * value) - 1) <= 1e-6
    gradient = np.full(4, float(np.finfo(dtype).max) * fraction, dtype)
    clip(gradient, 1.0)
    assert np.allclose(gradient, 0.5, rtol=2 * np.finfo(dtype).eps * 4)


def test_the_gradients_of_a_model_are_clipped_together_wherever_they_lie() -> None:
    for laid in (False, True):
        model, single = Linear(3, 2), Parameter(np.zeros(4, np.float32))
        _ = model.flat if laid else None
        model.weight.accumulate(np.full((2, 3), 2.0, np.float32))
        model.bias.accumulate(np.full(2, 1.0, np.float32))
        single.accumulate(np.full(4, 3.0, np.float32))
        frozen = Parameter(np.zeros(2, np.float32))
        norm = clip_grad_norm_([*model.parameters(), single, frozen, single], 1.0)
        assert norm == pytest.approx(np.sqrt(24 + 2 + 36), rel=1e-6)
        assert np.allclose(model.weight.grad, 2 / norm)
        assert np.allclose(single.grad, 3 / norm)
        assert frozen.grad is None
    assert clip_grad_norm_([frozen], 1.0) == 0.0
