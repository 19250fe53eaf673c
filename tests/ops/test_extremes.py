"""Values at the edge of float32, in float32, so that references and kernels both meet them."""

from typing import Any

import numpy as np
import pytest

from compyute_transformer.errors import RangeError
from compyute_transformer.ops.attention import (
    Mask,
    attention,
    attention_backward,
    attention_forward,
    fused_attention_backward,
    fused_attention_forward,
)
from compyute_transformer.ops.linear import linear_backward, linear_forward
from compyute_transformer.ops.loss import IGNORE_INDEX, cross_entropy_backward, cross_entropy_forward
from compyute_transformer.ops.norm import layer_norm, layer_norm_forward

RNG = np.random.default_rng(0)
ATTENTION = pytest.mark.parametrize(
    ("forward", "backward"),
    [(attention_forward, attention_backward), (fused_attention_forward, fused_attention_backward)],
    ids=["attention", "fused"],
)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("offset", [0.0, 89.0, -200.0, 1e4, 1e30])
def test_the_loss_does_not_depend_on_an_offset_of_the_logits(offset: float) -> None:
    logits, targets = np.float32([[0, 8, -8, 16], [24, 0, 0, 8]]) * max(1.0, abs(offset) / 1e4), np.array([1, 2])
    logits = np.rint(logits / np.spacing(np.float32(max(offset, 1)))) * np.spacing(np.float32(max(offset, 1)))
    plain, saved = cross_entropy_forward(logits.astype(np.float32), targets)
    moved, saved_moved = cross_entropy_forward(logits.astype(np.float32) + np.float32(offset), targets)
    assert np.isfinite(moved)
    np.testing.assert_allclose(moved, plain, rtol=1e-3)
    np.testing.assert_allclose(
        cross_entropy_backward(1.0, saved_moved), cross_entropy_backward(1.0, saved), rtol=1e-3, atol=1e-6
    )


def test_an_ignored_row_of_nan_reaches_no_gradient_and_no_loss() -> None:
    logits, targets = normal(6, 9), np.arange(6)
    loss, saved = cross_entropy_forward(logits[1:].copy(), targets[1:])
    expected = cross_entropy_backward(1.0, saved)
    logits[0], targets[0] = np.nan, IGNORE_INDEX
    with np.errstate(invalid="ignore"):
        again, saved = cross_entropy_forward(logits, targets)
        dlogits = cross_entropy_backward(1.0, saved)
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    assert not dlogits[0].any()
    np.testing.assert_allclose(dlogits[1:], expected, rtol=1e-5, atol=1e-8)


def test_the_variance_is_taken_around_the_mean() -> None:
    """E[x²] − m² would cancel: at a mean of 4096 nothing would be left of a variance of 1."""
    x = np.rint(normal(300, 64) * 64) / 64
    weight, bias = normal(64), normal(64)
    atol = 4 * float(np.spacing(np.float32(4096)))  # the mean is rounded at its own size
    np.testing.assert_allclose(layer_norm(x + 4096, weight, bias), layer_norm(x, weight, bias), rtol=0, atol=atol)
    _, saved = layer_norm_forward(x + 4096, weight, bias)
    np.testing.assert_allclose(saved.rstd, 1 / np.sqrt(x.astype(np.float64).var(-1) + 1e-5), rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 31, 1031, 4099])
def test_every_row_takes_part_in_every_gradient_of_linear(rows: int) -> None:
    x, weight, bias, dy = normal(rows, 33), normal(70, 33), normal(70), normal(rows, 70)
    _, saved = linear_forward(x, weight, bias)
    dx, dweight, dbias = linear_backward(dy, saved)
    exact = [a.astype(np.float64) for a in (dy, x, weight)]
    for mine, true in zip(
        (dx, dweight, dbias), (exact[0] @ exact[2], exact[0].T @ exact[1], exact[0].sum(0)), strict=True
    ):
        assert np.abs(mine - true).max() <= 1e-6 * rows**0.5 * 20


@ATTENTION
@pytest.mark.parametrize("hidden", [-1e9, -1e30, float(np.finfo(np.float32).min), -np.inf])
@pytest.mark.parametrize("T", [5, 40])
def test_a_row_hidden_by_a_finite_mask_is_what_the_formula_says(
    forward: Any, backward: Any, hidden: float, T: int
) -> None:
    q, k, v, dy = (normal(1, 2, T, 8) for _ in range(4))
    added = np.zeros((T, T), np.float32)
    added[2] = hidden
    added[3, 1:] = hidden
    y, saved = forward(q, k, v, Mask(array=added))
    gradients = backward(dy, saved)
    # the sum of scores and mask rounds to float32; from there on, everything in float64
    scores = (q @ k.swapaxes(2, 3) * np.float32(8**-0.5) + added).astype(np.float64)
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights = np.nan_to_num(weights / weights.sum(-1, keepdims=True))
    dweights = dy.astype(np.float64) @ v.swapaxes(2, 3)
    dscores = weights * (dweights - (dweights * weights).sum(-1, keepdims=True)) * 8**-0.5
    expected = [weights @ v, dscores @ k, dscores.swapaxes(2, 3) @ q, weights.swapaxes(2, 3) @ dy]
    for mine, true in zip((y, *gradients), expected, strict=True):
        np.testing.assert_allclose(mine, true, rtol=0, atol=2e-5)


MASKS = {
    "causal": Mask(causal=True),
    "lengths": Mask(key_lengths=np.array([11])),
    "boolean": Mask(array=np.arange(12)[None] < np.full((12, 1), 11)),
    "added": Mask(array=np.where(np.arange(12)[None] < np.full((12, 1), 11), np.float32(0), np.float32(-np.inf))),
}


@ATTENTION
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("wild", [np.nan, np.inf])
def test_what_a_hidden_key_holds_reaches_neither_outputs_nor_gradients(
    forward: Any, backward: Any, mask: Mask, wild: float
) -> None:
    q, k, v, dy = (normal(1, 2, 12, 8) for _ in range(4))
    dy[:, :, 11] = 0  # under the causal mask, the last query sees the last key
    last = 11 if mask.causal else 12
    if mask.causal:
        q[:, :, 11] = 0
    found = []
    for value in (0.0, wild):
        keys, values = k.copy(), v.copy()
        keys[:, :, 11] = values[:, :, 11] = value
        with np.errstate(invalid="ignore"):
            y, saved = forward(q, keys, values, mask)
            found.append([y[:, :, :last], *([] if mask.causal else backward(dy, saved))])
    for plain, spoiled in zip(*found, strict=True):
        np.testing.assert_allclose(spoiled, plain, rtol=0, atol=1e-6)


def test_a_float_mask_of_zeros_and_ones_is_refused() -> None:
    q = normal(1, 1, 4, 8)
    with pytest.raises(RangeError, match=r"zeros and ones hide nothing.*array\.astype\(bool\)"):
        attention(q, q, q, Mask(array=np.tril(np.ones((4, 4)))))
    attention(q, q, q, Mask(array=np.zeros((4, 4))))
    attention(q, q, q, Mask(array=np.tril(np.full((4, 4), 0.5))))
