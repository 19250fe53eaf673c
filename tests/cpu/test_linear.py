"""Linear on a CPU: few rows take another way than many, small weights another than large; the result is the same."""

import numpy as np
import pytest

from compyute_transformer.cpu.linear import FEW_ROWS, WORTH_THREADS
from compyute_transformer.dispatch import use_kernels
from compyute_transformer.ops.linear import linear_backward, linear_forward
from compyute_transformer.threads import set_threads, threads

LARGE = (1031, 1019)  # primes: no share of it is like another
assert LARGE[0] * LARGE[1] > WORTH_THREADS


@pytest.mark.parametrize("rows", [(1,), (1, 1), (2, 3), (FEW_ROWS - 1,), (FEW_ROWS,), (FEW_ROWS + 1,), (3, 37)])
@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (1, 7), (13, 37), LARGE])
@pytest.mark.parametrize("has_bias", [True, False])
def test_any_number_of_rows_and_outputs(rows: tuple[int, ...], shape: tuple[int, int], has_bias: bool) -> None:
    rng = np.random.default_rng(0)
    x, weight, bias = rng.normal(size=(*rows, shape[1])), rng.normal(size=shape), rng.normal(size=shape[0])
    given = [x.astype(np.float32), weight.astype(np.float32), bias.astype(np.float32) if has_bias else None]
    with use_kernels("cpu"):
        y, saved = linear_forward(*given)
    expected = x @ weight.T + (bias if has_bias else 0)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-6 * np.abs(x).max() * np.abs(weight).sum(1).max())
    assert y.dtype == np.float32
    assert saved.x is given[0]
    assert saved.has_bias is has_bias


@pytest.mark.parametrize("rows", [1, FEW_ROWS])
def test_what_is_not_finite_stays_so(rows: int) -> None:
    weight = np.ones((5, 4), np.float32)
    weight[1, 2], weight[3, 0] = np.nan, np.inf
    with use_kernels("cpu"):
        y, _ = linear_forward(np.ones((rows, 4), np.float32), weight, None)
    np.testing.assert_array_equal(y, np.tile(np.float32([4, np.nan, 4, np.inf, 4]), (rows, 1)))


def test_parts_of_larger_arrays_are_served() -> None:
    """What a class token leaves, or the third of a projection: rows that do not lie one after the other."""
    rng = np.random.default_rng(3)
    whole, weight = rng.normal(size=(2, 20, 3 * 7)).astype(np.float32), rng.normal(size=(5, 7)).astype(np.float32)
    dwhole = rng.normal(size=(2, 20, 2 * 5)).astype(np.float32)
    for x, dy in ((whole[:, 1:, 7:14], dwhole[:, 1:, :5]), (whole[:, 0, :7], dwhole[:, 0, 5:])):
        with use_kernels("cpu"):
            y, saved = linear_forward(x, weight)
            dx, dweight, _ = linear_backward(dy, saved)
        np.testing.assert_allclose(y, x @ weight.T, rtol=0, atol=1e-5)
        np.testing.assert_allclose(dx, dy @ weight, rtol=0, atol=1e-5)
        np.testing.assert_allclose(dweight, dy.reshape(-1, 5).T @ x.reshape(-1, 7), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 4, 7, FEW_ROWS, FEW_ROWS + 1])
def test_the_threads_do_not_change_a_bit(rows: int) -> None:
    rng, before, found = np.random.default_rng(2), threads(), []
    x, weight = rng.normal(size=(rows, 301)).astype(np.float32), rng.normal(size=(1999, 301)).astype(np.float32)
    try:
        for count in (1, before):
            set_threads(count, override=True)
            with use_kernels("cpu"):
                found.append(linear_forward(x, weight, weight[:, 0].copy())[0])
    finally:
        set_threads(before, override=True)
    np.testing.assert_array_equal(*found)
