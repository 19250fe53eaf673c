"""AdamW beside torch.optim.AdamW, its decay, its state, its refusals."""

from typing import Any

import numpy as np
import pytest
import torch

from compyute_transformer.arrays import Array
from compyute_transformer.errors import ConfigError, StateError
from compyute_transformer.nn import Linear
from compyute_transformer.nn.module import Flat, Parameter
from compyute_transformer.optim import SGD, AdamW
from compyute_transformer.verify import relative_error

SHAPES = [(4, 3), (5,), (2, 3, 2), (3,)]
LIMITS = {np.float64: 1e-12, np.float32: 1e-6}


def make_flat(dtype: type = np.float64, seed: int = 0) -> Flat:
    rng = np.random.default_rng(seed)
    return Flat(Parameter(rng.normal(size=shape).astype(dtype)) for shape in SHAPES)


def random_gradients(flat: Flat, steps: int, seed: int = 1) -> Array:
    """Of sizes that vary by element and step, as a model's do."""
    rng = np.random.default_rng(seed)
    size = flat.data.size
    sizes = 10.0 ** rng.uniform(-3, 1, size) * rng.uniform(0.5, 2.0, (steps, size))
    return (rng.normal(size=(steps, size)) * sizes).astype(flat.data.dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"learning_rate": 0.1, "weight_decay": 0.5},
        {"betas": (0.8, 0.95), "eps": 1e-3},
        {"betas": (0.0, 0.0), "weight_decay": 0.0},
    ],
    ids=str,
)
def test_twenty_steps_are_those_of_torch(options: dict[str, Any], dtype: type) -> None:
    flat = make_flat(dtype)
    theirs = [torch.from_numpy(parameter.data.copy()).requires_grad_() for parameter in flat.parameters]
    renamed = {{"learning_rate": "lr"}.get(name, name): value for name, value in options.items()}
    groups = [
        {"params": [p for p in theirs if p.ndim >= 2]},
        {"params": [p for p in theirs if p.ndim < 2], "weight_decay": 0.0},
    ]
    ours, oracle = AdamW(flat, **options), torch.optim.AdamW(groups, **renamed)
    for gradient in random_gradients(flat, 20):
        flat.grad[...] = gradient
        for parameter, their in zip(flat.parameters, theirs, strict=True):
            their.grad = torch.from_numpy(parameter.grad.copy())
        ours.step()
        oracle.step()
        for parameter, their in zip(flat.parameters, theirs, strict=True):
            assert relative_error(parameter.data, their.detach().numpy()) <= LIMITS[dtype]
    assert ours.steps == 20
    assert flat.data.dtype == ours.first_moment.dtype == ours.second_moment.dtype == dtype


def test_the_learning_rate_may_change_before_each_step() -> None:
    flat = make_flat()
    their = torch.from_numpy(flat.data.copy()).requires_grad_()
    ours, oracle = AdamW(flat, weight_decay=0.0), torch.optim.AdamW([their], weight_decay=0.0)
    for step, gradient in enumerate(random_gradients(flat, 5)):
        ours.learning_rate = oracle.param_groups[0]["lr"] = 0.1 / (step + 1)
        flat.grad[...] = gradient
        their.grad = torch.from_numpy(gradient)
        ours.step()
        oracle.step()
    assert relative_error(flat.data, their.detach().numpy()) <= 1e-12


def test_matrices_are_decayed_and_vectors_are_not() -> None:
    flat = make_flat()
    before = flat.data.copy()
    AdamW(flat, learning_rate=0.1, weight_decay=0.5).step()  # without a gradient nothing but decay moves
    assert flat.num_decayed == 4 * 3 + 2 * 3 * 2
    assert np.allclose(flat.data[: flat.num_decayed], 0.95 * before[: flat.num_decayed], rtol=1e-15, atol=0)
    assert np.array_equal(flat.data[flat.num_decayed :], before[flat.num_decayed :])


def test_a_state_goes_round_and_training_goes_on_bit_for_bit() -> None:
    flat = make_flat(np.float32)
    gradients = random_gradients(flat, 10)
    optimizer = AdamW(flat, learning_rate=0.1)
    for gradient in gradients[:5]:
        flat.grad[...] = gradient
        optimizer.step()
    weights, state, steps = flat.data.copy(), optimizer.state_dict(), optimizer.steps
    for gradient in gradients[5:]:
        flat.grad[...] = gradient
        optimizer.step()

    other = make_flat(np.float32, seed=9)
    other.data[...] = weights
    resumed = AdamW(other, learning_rate=0.1)
    resumed.load_state_dict(state, steps)
    for gradient in gradients[5:]:
        other.grad[...] = gradient
        resumed.step()
    assert np.array_equal(other.data, flat.data)
    assert resumed.steps == 10
    assert np.array_equal(resumed.second_moment, optimizer.second_moment)


def test_a_state_is_a_snapshot_both_ways() -> None:
    flat = make_flat()
    optimizer = AdamW(flat)
    flat.grad[...] = 1.0
    optimizer.step()
    state = optimizer.state_dict()
    kept = {name: array.copy() for name, array in state.items()}
    other = AdamW(make_flat())
    other.load_state_dict(state, 1)
    optimizer.step()
    other.flat.grad[...] = 2.0
    other.step()
    assert all(np.array_equal(state[name], kept[name]) for name in kept)


def test_a_state_that_does_not_fit_is_refused_and_nothing_is_loaded() -> None:
    flat = make_flat()
    optimizer = AdamW(flat)
    right = {name: array + 1.0 for name, array in optimizer.state_dict().items()}
    wrong: list[dict[str, Array]] = [
        {},
        {"first_moment": right["first_moment"]},
        {**right, "velocity": right["first_moment"]},
        {**right, "second_moment": right["second_moment"][:1]},  # would broadcast
        SGD(flat).state_dict(),
    ]
    for state in wrong:
        with pytest.raises(StateError, match=r"AdamW\.load_state_dict: the state must hold first_moment \(32,\)"):
            optimizer.load_state_dict(state, 3)
    with pytest.raises(StateError, match="steps count those taken before, at least 0, got -1"):
        optimizer.load_state_dict(right, -1)
    assert optimizer.steps == 0
    assert not optimizer.first_moment.any()
    assert not optimizer.second_moment.any()


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": -0.1},
        {"learning_rate": float("nan")},
        {"eps": -1e-8},
        {"weight_decay": -0.1},
        {"weight_decay": float("nan")},
        {"betas": (1.0, 0.9)},
        {"betas": (0.9, -0.1)},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^AdamW: learning_rate, eps and weight_decay are at least 0"):
        AdamW(make_flat(), **options)


@pytest.mark.parametrize("optimizer", [AdamW, SGD])
def test_what_is_no_flat_buffer_is_refused(optimizer: type) -> None:
    model = Linear(3, 2)
    for given in (model, model.parameters(), [model.weight]):
        with pytest.raises(ConfigError, match=r"works on the one buffer .* Give it model.flat"):
            optimizer(given)
