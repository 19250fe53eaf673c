"""Rotary positions: rotations, both layouts, the four ways to scale the frequencies, and the tables."""

from math import log, pi
from typing import Any

import numpy as np
import pytest

from compyute_transformer.errors import DtypeError, RangeError, ShapeError
from compyute_transformer.ops.rotary import (
    RotaryScaling,
    rotary_frequencies,
    rotary_position,
    rotary_position_backward,
    rotary_position_forward,
    rotary_tables,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 4, 8))
COS, SIN = rotary_tables(rotary_frequencies(8), 0, 4, np.float64)


def test_a_pair_is_turned_by_the_angle_of_its_position() -> None:
    cos, sin = rotary_tables(np.array([pi / 2]), 1, 2, np.float64)  # a quarter turn, then a half
    x = np.array([[3.0, 5.0], [3.0, 5.0]])[None, None]
    assert np.allclose(rotary_position(x, cos, sin), np.array([[-5.0, 3.0], [-3.0, -5.0]]), atol=1e-15)


def test_lengths_stay_and_scores_depend_on_the_distance_alone() -> None:
    y = rotary_position(X, COS, SIN)
    assert np.allclose((y * y).sum(-1), (X * X).sum(-1))
    later = rotary_tables(rotary_frequencies(8), 1000, 4, np.float64)
    moved = rotary_position(X, *later)
    assert np.allclose(y @ y.swapaxes(2, 3), moved @ moved.swapaxes(2, 3), atol=1e-11)
    assert np.abs(moved - y).max() > 0.1


def test_one_layout_is_the_other_with_its_columns_in_another_order() -> None:
    order = np.arange(8).reshape(2, 4).T.reshape(-1)  # 0 4 1 5 2 6 3 7
    y = rotary_position(X[..., order], COS, SIN, interleaved=True)
    assert np.allclose(y, rotary_position(X, COS, SIN)[..., order])
    assert np.abs(rotary_position(X, COS, SIN, True) - rotary_position(X, COS, SIN)).max() > 0.1


@pytest.mark.parametrize("interleaved", [False, True])
def test_columns_past_the_pairs_stay(interleaved: bool) -> None:
    y = rotary_position(X, COS[:, :2], SIN[:, :2], interleaved)
    assert np.array_equal(y[..., 4:], X[..., 4:])
    assert np.allclose(y[..., :4], rotary_position(X[..., :4], COS[:, :2], SIN[:, :2], interleaved))


def test_heads_that_lie_side_by_side_are_turned_as_they_are_and_stay_unchanged() -> None:
    wide = RNG.normal(size=(2, 4, 24)).astype(np.float32)
    heads = wide.reshape(2, 4, 3, 8).swapaxes(1, 2)
    before, cos, sin = wide.copy(), COS.astype(np.float32), SIN.astype(np.float32)
    y = rotary_position(heads, cos, sin)
    assert np.allclose(y, rotary_position_forward.reference(np.ascontiguousarray(heads), cos, sin)[0], atol=1e-6)
    assert np.array_equal(wide, before)


def test_frequencies_are_the_formula() -> None:
    assert np.allclose(rotary_frequencies(6, 500.0), [1.0, 500.0 ** (-1 / 3), 500.0 ** (-2 / 3)], rtol=1e-15)
    assert np.array_equal(rotary_frequencies(6), rotary_frequencies(6, 10000.0))
    linear = RotaryScaling("linear", 4.0, 128)
    assert np.allclose(rotary_frequencies(6, 500.0, linear), rotary_frequencies(6, 500.0) / 4)


def test_dynamic_scaling_begins_past_the_original_length() -> None:
    dynamic, plain = RotaryScaling("dynamic", 2.0, 64), rotary_frequencies(8, 10000.0)
    assert np.array_equal(rotary_frequencies(8, 10000.0, dynamic, 64), plain)
    theta = 10000.0 * (2.0 * 96 / 64 - 1.0) ** (8 / 6)
    assert np.allclose(rotary_frequencies(8, 10000.0, dynamic, 96), rotary_frequencies(8, theta), rtol=1e-15)


def test_llama3_keeps_high_frequencies_divides_low_ones_and_goes_over_between() -> None:
    scaling = RotaryScaling("llama3", 8.0, 8192, 1.0, 4.0)
    plain, scaled = rotary_frequencies(128, 500000.0), rotary_frequencies(128, 500000.0, scaling)
    for before, after in zip(plain, scaled, strict=True):
        wavelength = 2 * pi / before
        if wavelength < 8192 / 4:
            wanted = before
        elif wavelength > 8192:
            wanted = before / 8
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            wanted = (1 - smooth) * before / 8 + smooth * before
        assert after == pytest.approx(wanted, rel=1e-14)
    assert (scaled == plain).any()
    assert np.isclose(scaled, plain / 8, rtol=1e-14).any()


def test_yarn_is_the_formula_of_the_paper() -> None:
    scaling = RotaryScaling("yarn", 4.0, 256, beta_fast=16.0, beta_slow=2.0)
    width, theta = 32, 1000.0
    plain = rotary_frequencies(width, theta)
    start, end = (width * log(256 / (turns * 2 * pi)) / (2 * log(theta)) for turns in (16.0, 2.0))
    start, end = int(start), int(end) + 1  # whole columns
    ramp = [min(1.0, max(0.0, (i - start) / (end - start))) for i in range(width // 2)]
    wanted = [f / 4 * r + f * (1 - r) for f, r in zip(plain, ramp, strict=True)]
    assert np.allclose(rotary_frequencies(width, theta, scaling), wanted, rtol=1e-14)
    assert sum(0 < r < 1 for r in ramp) > 0
    exact = rotary_frequencies(
        width, theta, RotaryScaling("yarn", 4.0, 256, beta_fast=16.0, beta_slow=2.0, truncate=False)
    )
    assert not np.allclose(exact, wanted)
    assert scaling.scale == pytest.approx(0.1 * log(4.0) + 1.0)
    assert RotaryScaling("yarn", 4.0, 256, attention_factor=0.7).scale == 0.7
    assert RotaryScaling("linear", 4.0, 256).scale == 1.0


def test_yarn_with_ends_outside_the_columns_stays_within_them() -> None:
    short = RotaryScaling("yarn", 4.0, 4)
    assert np.allclose(rotary_frequencies(8, 10000.0, short)[1:], rotary_frequencies(8)[1:] / 4)


def test_tables_are_exact_far_out_and_scaled() -> None:
    frequencies = rotary_frequencies(8)
    cos, sin = rotary_tables(frequencies, 100_000, 2, np.float32, 1.5)
    angles = np.array([100_000, 100_001])[:, None] * frequencies
    assert cos.dtype == sin.dtype == np.float32
    assert np.allclose(cos, 1.5 * np.cos(angles), atol=1e-7)
    assert np.allclose(sin, 1.5 * np.sin(angles), atol=1e-7)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: rotary_position(X[0], COS, SIN), ShapeError, "x must have shape"),
        (lambda: rotary_position(X, COS[:3], SIN[:3]), ShapeError, r"cos must have shape \(4, any\)"),
        (lambda: rotary_position(X, COS, SIN[:, :2]), ShapeError, "sin must have shape"),
        (lambda: rotary_position(X[..., :6], COS, SIN), ShapeError, "at most half the head width 6, got 4"),
        (lambda: rotary_position(X, COS[:, :0], SIN[:, :0]), ShapeError, "at least 1"),
        (lambda: rotary_position(X, COS.astype(np.float32), SIN.astype(np.float32)), DtypeError, "one dtype"),
        (lambda: rotary_position(X, COS, SIN, 1), DtypeError, "interleaved is True or False"),
        (lambda: rotary_frequencies(7), RangeError, "width is even"),
        (lambda: rotary_frequencies(8, 1.0), RangeError, "theta"),
        (lambda: rotary_tables(COS[0], -1, 3), RangeError, "start"),
        (lambda: rotary_tables(COS[0], 0, 0), RangeError, "length"),
        (lambda: RotaryScaling("ntk", 2.0, 64), RangeError, "kind is one of linear, dynamic, llama3, yarn, got 'ntk'"),
        (lambda: RotaryScaling("linear", 0.5, 64), RangeError, "factor"),
        (lambda: RotaryScaling("linear", 2.0, 0), RangeError, "original_length"),
        (lambda: RotaryScaling("llama3", 2.0, 64, 4.0, 4.0), RangeError, "must be below high_frequency_factor"),
        (lambda: RotaryScaling("yarn", 2.0, 64, attention_factor=0.0), RangeError, "attention_factor"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_the_backward_refuses_a_gradient_of_another_shape() -> None:
    y, saved = rotary_position_forward(X, COS, SIN)
    with pytest.raises(ShapeError, match="rotary_position_backward: dy must have shape"):
        rotary_position_backward(y[0], saved)
