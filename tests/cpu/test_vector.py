"""The polynomials against NumPy's float64, over all they may be given; and Philox a row at a time."""

import numba
import numpy as np
import pytest
from scipy.special import erf

from compyute_transformer.arrays import Array
from compyute_transformer.cpu import _vector
from compyute_transformer.random import RandomKey, random_bits


@numba.njit
def _exp(x: Array, y: Array) -> None:
    for i in range(x.size):
        y[i] = _vector.exp(x[i])


@numba.njit
def _logistic(x: Array, y: Array) -> None:
    for i in range(x.size):
        y[i] = _vector.logistic(x[i])


@numba.njit
def _tanh(x: Array, y: Array) -> None:
    for i in range(x.size):
        y[i] = _vector.tanh(x[i])


@numba.njit
def _normal(x: Array, below: Array, density: Array) -> None:
    for i in range(x.size):
        below[i], density[i] = _vector.normal_cdf_and_pdf(x[i])


@numba.njit
def _random_row(bits: Array, first: int, quads: int, row: int, words: tuple[int, ...]) -> None:
    _vector.random_row(bits, first, quads, row, *words)


def test_exp_is_right_to_5e_7_wherever_float32_holds_it() -> None:
    x = np.linspace(-87.3, 88.7, 1_000_001).astype(np.float32)
    y = np.empty_like(x)
    _exp(x, y)
    exact = np.exp(x.astype(np.float64))
    assert np.abs(y / exact - 1).max() < 5e-7


def test_exp_of_what_has_no_float32_and_of_what_is_no_number() -> None:
    x = np.array([-np.inf, -1e4, -87.34, 0.0, 88.73, 1e4, np.inf, np.nan], np.float32)
    y = np.empty_like(x)
    _exp(x, y)
    np.testing.assert_array_equal(y, np.array([0, 0, 0, 1, np.inf, np.inf, np.inf, np.nan], np.float32))


def test_logistic_is_right_to_6e_7_of_itself() -> None:
    x = np.linspace(-87, 88, 500_001).astype(np.float32)
    y = np.empty_like(x)
    _logistic(x, y)
    assert np.abs(y * (1 + np.exp(-x.astype(np.float64))) - 1).max() < 6e-7


def test_tanh_is_right_to_3e_7_of_itself_near_zero_too() -> None:
    x = np.concatenate([np.linspace(-12, 12, 500_001), np.geomspace(1e-30, 1, 100_000)]).astype(np.float32)
    x = x[x != 0]
    y = np.empty_like(x)
    _tanh(x, y)
    assert np.abs(y / np.tanh(x.astype(np.float64)) - 1).max() < 3e-7


def test_tanh_far_out_and_of_what_is_no_number() -> None:
    x = np.array([-np.inf, -1e4, -60.0, 0.0, 60.0, 1e4, np.inf, np.nan], np.float32)
    y = np.empty_like(x)
    _tanh(x, y)
    np.testing.assert_array_equal(y, np.array([-1, -1, -1, 0, 1, 1, 1, np.nan], np.float32))


def test_logistic_far_out() -> None:
    x = np.array([-np.inf, -1e4, 1e4, np.inf], np.float32)
    y = np.empty_like(x)
    _logistic(x, y)
    np.testing.assert_array_equal(y, np.array([0, 0, 1, 1], np.float32))


def test_normal_cdf_and_pdf_are_right_to_3e_7() -> None:
    x = np.linspace(-30, 30, 500_001).astype(np.float32)
    below, density = np.empty_like(x), np.empty_like(x)
    _normal(x, below, density)
    exact = x.astype(np.float64)
    assert np.abs(below - 0.5 * (1 + erf(exact * np.sqrt(0.5)))).max() < 3e-7
    assert np.abs(density - np.exp(-0.5 * exact**2) / np.sqrt(2 * np.pi)).max() < 3e-7


@pytest.mark.parametrize("function", [_exp, _logistic])
def test_nan_stays_nan(function: numba.core.dispatcher.Dispatcher) -> None:
    x, y = np.array([np.nan], np.float32), np.zeros(1, np.float32)
    function(x, y)
    assert np.isnan(y).all()


@pytest.mark.parametrize(("columns", "first"), [(1, 0), (7, 0), (64, 0), (9, 8)])
def test_random_row_is_a_row_of_random_bits(columns: int, first: int) -> None:
    key = RandomKey(seed=0xFEDCBA9876543210, stream=1, offset=7, head=2)
    expected = random_bits(key, rows=6, columns=first + columns)[0, 5, first:]
    quads = (columns + 3) // 4
    bits = np.zeros(4 * quads, np.uint32)
    _random_row(bits, first // 4, quads, 5, key.words)
    np.testing.assert_array_equal(bits[:columns], expected)
