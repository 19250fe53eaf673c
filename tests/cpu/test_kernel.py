"""What holds of every kernel: the number of threads changes no bit, and it refuses what it cannot serve."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest

from compyute_transformer.cpu import _kernel
from compyute_transformer.cpu._kernel import in_one_piece
from compyute_transformer.dispatch import use_kernels
from compyute_transformer.ops.activation import gelu_forward, softmax_forward
from compyute_transformer.ops.norm import layer_norm_forward
from compyute_transformer.verify.registry import REGISTRY, Case, Op, cast, cotangent, map_arrays

KERNELS = [op for op in REGISTRY.values() if getattr(op.forward, "kernel", lambda _: None)("cpu")]
CASES = [pytest.param(op, case, id=f"{op.name}-{case.name}") for op in KERNELS for case in op.cases]


def run(op: Op, case: Case) -> list[np.ndarray]:
    arguments = case.arguments(seed=3, dtype=np.float32)
    y, saved = op.forward(*arguments.values())
    gradients = op.gradients(cotangent(y), saved)
    return [np.array(y), *(np.array(gradient) for gradient in gradients.values() if gradient is not None)]


@pytest.mark.parametrize(("kernel", "example"), CASES)
def test_the_number_of_threads_changes_no_bit(kernel: Op, example: Case) -> None:
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        alone = run(kernel, example)
        numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
        together = run(kernel, example)
    finally:
        numba.set_num_threads(threads)
    for one, two in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_float64_runs_the_readable_reference(kernel: Op) -> None:
    arguments = kernel.cases[0].arguments(dtype=np.float64)
    y, _ = kernel.forward(*arguments.values())
    with use_kernels("reference"):
        expected, _ = kernel.forward(*arguments.values())
    np.testing.assert_array_equal(y, expected)
    assert y.dtype == np.float64


def test_a_nan_is_never_swallowed() -> None:
    for op in KERNELS:
        arguments = op.cases[-1].arguments(dtype=np.float32)
        name = op.differentiable[0]
        arguments[name] = map_arrays(np.array, cast(arguments[name], np.float32))
        arguments[name].fill(np.nan)
        y, _ = op.forward(*arguments.values())
        assert np.isnan(y).any(), op.name


def test_what_lies_in_one_piece_is_taken_as_it_is() -> None:
    ids = np.arange(6)
    assert in_one_piece(ids, np.int64) is ids
    fixed = ids.copy()
    fixed.flags.writeable = False
    for other in (ids.astype(np.int32), ids.astype(">i8"), np.repeat(ids, 2)[::2], fixed):
        taken = in_one_piece(other, np.int64)
        assert taken.dtype == np.int64
        assert taken.flags.carray
        np.testing.assert_array_equal(taken, ids)


WEIGHT = np.random.default_rng(4).standard_normal(301, dtype=np.float32)
RUNS: dict[str, Callable[[Any], Any]] = {
    "layer_norm": lambda x: layer_norm_forward(x, WEIGHT, WEIGHT[::-1].copy())[0],
    "gelu": lambda x: gelu_forward(x, "tanh")[0],
    "exact gelu": lambda x: gelu_forward(x, "none")[0],
    "softmax": lambda x: softmax_forward(x)[0],
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_what_is_worth_threads_gives_the_same_as_what_is_not(run: Callable[[Any], Any]) -> None:
    x = np.random.default_rng(3).standard_normal((1000, 301), dtype=np.float32)
    some = [0, 499, 500, 999]
    assert _kernel.worth_threads(x.size)
    assert not _kernel.worth_threads(x[:1].size)
    with use_kernels("cpu"):
        whole, rows = run(x), [run(x[n : n + 1]) for n in some]
    assert np.allclose(whole[some], np.concatenate(rows), rtol=1e-6, atol=1e-7)
    with use_kernels("reference"):
        assert np.allclose(whole, run(x), rtol=1e-5, atol=1e-6)
