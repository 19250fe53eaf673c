"""The residual stream is added to by all threads where it is large, to the same bits as NumPy's."""

import numpy as np
import pytest

from compyute_transformer import use_kernels
from compyute_transformer.cpu import addition
from compyute_transformer.dispatch import only_kernels_of
from compyute_transformer.nn.fused import added

LARGE = (5, 70_001)


def test_a_sum_has_the_bits_of_numpy() -> None:
    x, y = np.random.default_rng(0).standard_normal((2, *LARGE), np.float32)
    x[0, :4], y[0, :4] = (np.nan, np.inf, -np.inf, 1e38), (1, -np.inf, 1, 3e38)
    assert addition.supports(x, y)
    with np.errstate(invalid="ignore", over="ignore"):
        expected = x + y
    total = added(x, y)
    assert total is not x
    np.testing.assert_array_equal(total, expected)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.ones((3, 4), np.float32), np.ones((3, 4), np.float32)),  # not worth the other threads
        (np.ones(LARGE, np.float32), np.ones(LARGE[1], np.float32)),  # broadcast
        (np.ones(LARGE, np.float32).T, np.ones(LARGE, np.float32).T),  # not in one piece
        (np.ones(LARGE), np.ones(LARGE)),
    ],
    ids=["small", "broadcast", "turned", "float64"],
)
def test_other_sums_are_those_of_numpy(x: np.ndarray, y: np.ndarray) -> None:
    assert not addition.supports(x, y)
    total = added(x, y)
    assert (total.shape, total.dtype) == (x.shape, x.dtype)
    assert (total == 2).all()


def test_where_kernels_do_not_run_it_is_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addition, "add", lambda x, y: pytest.fail("a kernel ran"))
    for left_out in (use_kernels("reference"), only_kernels_of("norm")):
        with left_out:
            assert (added(np.ones(LARGE, np.float32), np.ones(LARGE, np.float32)) == 2).all()
