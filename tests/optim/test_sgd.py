"""SGD with momentum beside torch.optim.SGD, its decay, its state, its refusals."""

from typing import Any

import numpy as np
import pytest
import torch

from compyute_transformer.errors import ConfigError, StateError
from compyute_transformer.nn.module import Flat, Parameter
from compyute_transformer.optim import SGD, AdamW
from compyute_transformer.verify import relative_error

LIMITS = {np.float64: 1e-12, np.float32: 1e-6}


def make_flat(dtype: type = np.float64) -> Flat:
    rng = np.random.default_rng(0)
    return Flat(Parameter(rng.normal(size=shape).astype(dtype)) for shape in [(4, 3), (5,), (2, 3), (3,)])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.0, "learning_rate": 0.3}, {"momentum": 0.5, "weight_decay": 0.2}],
    ids=str,
)
def test_twenty_steps_are_those_of_torch(options: dict[str, Any], dtype: type) -> None:
    flat = make_flat(dtype)
    theirs = [torch.from_numpy(parameter.data.copy()).requires_grad_() for parameter in flat.parameters]
    groups = [
        {"params": [p for p in theirs if p.ndim >= 2]},
        {"params": [p for p in theirs if p.ndim < 2], "weight_decay": 0.0},
    ]
    ours = SGD(flat, **options)
    settings = {"lr": 0.1, "momentum": 0.9} | options
    settings["lr"] = settings.pop("learning_rate", settings["lr"])
    oracle = torch.optim.SGD(groups, **settings)
    rng = np.random.default_rng(1)
    for _ in range(20):
        flat.grad[...] = rng.normal(size=flat.grad.size)
        for parameter, their in zip(flat.parameters, theirs, strict=True):
            their.grad = torch.from_numpy(parameter.grad.copy())
        ours.step()
        oracle.step()
        for parameter, their in zip(flat.parameters, theirs, strict=True):
            assert relative_error(parameter.data, their.detach().numpy()) <= LIMITS[dtype]
    assert ours.steps == 20
    assert flat.data.dtype == ours.velocity.dtype == dtype


def test_matrices_are_decayed_and_vectors_are_not() -> None:
    flat = make_flat()
    before = flat.data.copy()
    SGD(flat, learning_rate=0.1, weight_decay=0.5).step()
    assert np.allclose(flat.data[:18], 0.95 * before[:18], rtol=1e-15, atol=0)
    assert np.array_equal(flat.data[18:], before[18:])


def test_the_gradient_is_left_as_it_was() -> None:
    flat = make_flat()
    flat.grad[...] = 1.5
    SGD(flat, weight_decay=0.5).step()
    assert (flat.grad == 1.5).all()


def test_a_state_goes_round_and_training_goes_on_bit_for_bit() -> None:
    flat, other = make_flat(np.float32), make_flat(np.float32)
    gradients = np.random.default_rng(1).normal(size=(10, flat.data.size))
    optimizer = SGD(flat)
    for gradient in gradients[:5]:
        flat.grad[...] = gradient
        optimizer.step()
    other.data[...], state = flat.data, optimizer.state_dict()
    resumed = SGD(other)
    resumed.load_state_dict(state, optimizer.steps)
    for gradient in gradients[5:]:
        for each in (optimizer, resumed):
            each.flat.grad[...] = gradient
            each.step()
    assert np.array_equal(other.data, flat.data)
    assert resumed.steps == optimizer.steps == 10
    assert not np.array_equal(state["velocity"], resumed.velocity), "a state is a snapshot"


def test_a_state_that_does_not_fit_is_refused_and_nothing_is_loaded() -> None:
    flat = make_flat()
    optimizer = SGD(flat)
    for state in (
        {},
        {"velocity": np.ones(1)},
        {"velocity": np.ones(26), "more": np.ones(1)},
        AdamW(flat).state_dict(),
    ):
        with pytest.raises(StateError, match=r"SGD\.load_state_dict: the state must hold velocity \(26,\), got"):
            optimizer.load_state_dict(state, 3)
    with pytest.raises(StateError, match="at least 0, got -1"):
        optimizer.load_state_dict({"velocity": np.ones(26)}, -1)
    assert optimizer.steps == 0
    assert not optimizer.velocity.any()


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": -0.1},
        {"learning_rate": float("nan")},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"weight_decay": -0.1},
        {"weight_decay": float("nan")},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^SGD: learning_rate and weight_decay are at least 0"):
        SGD(make_flat(), **options)
