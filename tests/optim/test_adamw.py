"""AdamW beside torch.optim.AdamW, and its refusals."""

from typing import Any

import numpy as np
import pytest
import torch

from compyute_transformer.arrays import Array
from compyute_transformer.errors import ConfigError
from compyute_transformer.nn import Parameter
from compyute_transformer.optim import AdamW
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


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -0.1},
        {"lr": float("nan")},
        {"eps": -1e-8},
        {"weight_decay": -0.1},
        {"weight_decay": float("nan")},
        {"betas": (1.0, 0.9)},
        {"betas": (0.9, -0.1)},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^AdamW: lr, eps and weight_decay are at least 0"):
        AdamW(make()[0], **options)
    with pytest.raises(ConfigError, match=r"^AdamW: lr, eps and weight_decay are at least 0"):
        AdamW([{"params": make()[0], **options}])
