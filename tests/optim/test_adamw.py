"""AdamW beside torch.optim.AdamW, and its refusals."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from compyute_transformer.arrays import Array
from compyute_transformer.errors import ConfigError, InputError, RangeError, ShapeError
from compyute_transformer.nn import Parameter
from compyute_transformer.optim import AdamW
from compyute_transformer.optim.adamw import AdamWOptions, adamw_update
from compyute_transformer.verify import relative_error

SHAPES = [(4, 3), (5,), (2, 3, 2), (3,)]
LIMITS = {np.float64: 1e-12, np.float32: 1e-6}


def make(dtype: type = np.float64) -> tuple[list[Parameter], list[Any]]:
    """Parameters, and PyTorch's of equal values."""
    rng = np.random.default_rng(0)
    ours = [Parameter(rng.normal(size=shape).astype(dtype)) for shape in SHAPES]
    return ours, [torch.from_numpy(parameter.data.copy()).requires_grad_() for parameter in ours]


def random_gradients(steps: int, dtype: type, seed: int = 1) -> list[list[Array]]:
    """Of sizes that vary by element and step, as a model's do."""
    rng = np.random.default_rng(seed)
    sizes = [10.0 ** rng.uniform(-3, 1, shape) for shape in SHAPES]
    return [[(rng.normal(size=size.shape) * size).astype(dtype) for size in sizes] for _ in range(steps)]


def assign(ours: list[Parameter], theirs: list[Any], gradients: list[Array]) -> None:
    for our, their, gradient in zip(ours, theirs, gradients, strict=True):
        our.grad = gradient
        their.grad = torch.from_numpy(gradient.copy())


def assert_equal(ours: list[Parameter], theirs: list[Any], allowed: float) -> None:
    for our, their in zip(ours, theirs, strict=True):
        assert relative_error(our.data, their.detach().numpy()) <= allowed


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lr": 0.1, "weight_decay": 0.5},
        {"betas": (0.8, 0.95), "eps": 1e-3},
        {"betas": (0.0, 0.0), "weight_decay": 0.0},
    ],
    ids=str,
)
def test_twenty_steps_are_those_of_torch(options: dict[str, Any], dtype: type) -> None:
    parameters, theirs = make(dtype)
    ours, oracle = AdamW(parameters, **options), torch.optim.AdamW(theirs, **options)
    for gradients in random_gradients(20, dtype):
        assign(parameters, theirs, gradients)
        ours.step()
        oracle.step()
        assert_equal(parameters, theirs, LIMITS[dtype])
    assert ours.steps == 20
    assert {a.dtype for v in ours.state_dict()["state"].values() for k, a in v.items() if k != "step"} == {
        np.dtype(dtype)
    }


def test_groups_and_learning_rates_that_change_are_those_of_torch() -> None:
    parameters, theirs = make()
    ours, oracle = (
        optimizer(
            [
                {"params": given[:1] + given[3:], "weight_decay": 0.5},
                {"params": given[1:3], "weight_decay": 0.0, "lr": 0.2, "betas": (0.5, 0.9)},
            ],
            lr=0.1,
        )
        for optimizer, given in ((AdamW, parameters), (torch.optim.AdamW, theirs))
    )
    for step, gradients in enumerate(random_gradients(8, np.float64)):
        for group in (*ours.param_groups, *oracle.param_groups):
            group["lr"] /= step + 1
        assign(parameters, theirs, gradients)
        if step % 3 == 1:  # no gradient this time: neither decay nor a step
            parameters[2].grad = theirs[2].grad = None
        ours.step()
        oracle.step()
        assert_equal(parameters, theirs, 1e-12)


REFUSED: dict[str, dict[str, Any]] = {
    "lr is a number of at least 0, got -0.1. Give 0.1": {"lr": -0.1},
    "lr is a number of at least 0, got NaN": {"lr": float("nan")},
    "lr is a number of at least 0 and finite, got inf": {"lr": float("inf")},
    "lr is a number of at least 0, got str '1e-3'. Give float('1e-3')": {"lr": "1e-3"},
    "lr is a number of at least 0, got NoneType None": {"lr": None},
    "eps is a number of at least 0, got -1e-08": {"eps": -1e-8},
    "weight_decay is a number of at least 0, got -0.1": {"weight_decay": -0.1},
    "weight_decay is a number of at least 0, got bool True": {"weight_decay": True},
    "betas[0] is a number in [0, 1), got 1.0": {"betas": (1.0, 0.9)},
    "betas[1] is a number in [0, 1), got -0.1": {"betas": (0.9, -0.1)},
    "betas are two numbers in [0, 1), such as (0.9, 0.999), got 0.9": {"betas": 0.9},
}


@pytest.mark.parametrize("message", REFUSED)
def test_an_option_out_of_range_is_refused_in_words_of_its_own(message: str) -> None:
    for params in (make()[0], [{"params": make()[0], **REFUSED[message]}]):
        with pytest.raises(ConfigError, match=f"^AdamW: {re.escape(message)}"):
            AdamW(params, **REFUSED[message])


def test_an_update_by_hand_is_validated() -> None:
    arrays = [np.ones(3) for _ in range(4)]
    adamw_update(*arrays, 1, AdamWOptions(lr=0.1))
    with pytest.raises(ShapeError, match=r"arrays of one shape, got \(3,\), \(1,\), \(3,\), \(3,\)\."):
        adamw_update(arrays[0], np.ones(1), *arrays[2:], 1, AdamWOptions())
    with pytest.raises(RangeError, match="step is a whole number of at least 1, counted from 1, got 0"):
        adamw_update(*arrays, 0, AdamWOptions())
    with pytest.raises(InputError, match=r"options are AdamWOptions, got float"):
        adamw_update(*arrays, 1, 0.1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="lr is a number of at least 0, got -1"):
        adamw_update(*arrays, 1, AdamWOptions(lr=-1))


def test_a_weight_has_the_same_bits_in_any_slice_of_a_buffer() -> None:
    """As where each process updates a slice: in the vectorized body of a kernel and in its last few turns."""
    rng = np.random.default_rng(0)
    arrays = rng.uniform(0.1, 1.0, size=(4, 1000)).astype(np.float32)
    updated = []
    for width in (1000, 7):
        given = arrays.copy()
        for start in range(0, 1000, width):
            adamw_update(*(array[start : start + width] for array in given), 5, AdamWOptions(weight_decay=0.1))
        updated.append(given.tobytes())
    assert updated[0] == updated[1]
