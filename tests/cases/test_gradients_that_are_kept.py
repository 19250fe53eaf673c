"""A gradient in someone's hands stays as it is, as PyTorch's does: the next backward writes elsewhere."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from compyute_transformer import GPT, SGD, AdamW, GPTConfig, nn
from compyute_transformer.optim.flat import FlatBuffer


def model_and_data() -> tuple[GPT, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    model = GPT(GPTConfig(11, context_length=8, embed_dim=16, num_heads=2, num_layers=1))
    x, y = rng.integers(0, 11, (2, 3, 8)).astype(np.int32)
    return model, x, y


def backward(model: GPT, x: np.ndarray, y: np.ndarray) -> None:
    criterion = nn.CrossEntropyLoss()
    criterion(model(x), y)
    model.backward(criterion.backward())


@pytest.mark.parametrize("kind", [AdamW, SGD, None], ids=["AdamW", "SGD", "no optimizer"])
@pytest.mark.parametrize(
    "keep",
    [lambda p: p.grad, lambda p: p.grad.reshape(-1), lambda p: p.grad[:1], lambda p: p.grad.T],
    ids=["itself", "reshaped", "part", "transposed"],
)
def test_kept_gradients_do_not_change(kind: Any, keep: Callable[[Any], np.ndarray]) -> None:
    model, x, y = model_and_data()
    optimizer = kind(model.parameters(), lr=1e-2) if kind else None
    backward(model, x, y)
    kept = {name: keep(p) for name, p in model.named_parameters()}
    copies = {name: np.array(array) for name, array in kept.items()}
    for _ in range(2):
        if optimizer:
            optimizer.step()
        model.zero_grad()
        backward(model, y, x)
    for name, array in kept.items():
        assert np.array_equal(array, copies[name]), name
        assert not np.array_equal(keep(dict(model.named_parameters())[name]), copies[name]), name


@pytest.mark.parametrize("kind", [AdamW, SGD])
def test_a_replaced_gradient_leaves_the_kept_one_alone(kind: Any) -> None:
    model, x, y = model_and_data()
    optimizer = kind(model.parameters(), lr=1e-2)
    backward(model, x, y)
    kept = [p.grad for p in model.parameters()]
    copies = [np.array(array) for array in kept]
    for p in model.parameters():
        p.grad = 0.5 * p.grad
    optimizer.step()
    assert all(np.array_equal(one, other) for one, other in zip(kept, copies, strict=True))


def test_gradients_that_nobody_keeps_stay_in_their_array() -> None:
    model, x, y = model_and_data()
    optimizer = AdamW(model.parameters(), lr=1e-2)
    places = []
    for _ in range(3):
        optimizer.zero_grad()
        backward(model, x, y)
        optimizer.step()
        places.append({p.grad.__array_interface__["data"][0] for p in model.parameters()})
    assert places[0] == places[1] == places[2]


def test_half_of_a_backward_is_not_lost() -> None:
    """A gradient that was written before the array was renewed is part of the sum."""
    one, other = (nn.Parameter(np.ones((2, 3), np.float32)) for _ in range(2))
    FlatBuffer([one, other])
    other.accumulate(np.full((2, 3), 5, np.float32))
    kept = other.grad
    other.zero_grad()
    one.accumulate(np.full((2, 3), 1, np.float32))
    other.accumulate(np.full((2, 3), 2, np.float32))
    one.accumulate(np.full((2, 3), 3, np.float32))
    assert one.grad is not None
    assert other.grad is not None
    assert (one.grad == 4).all()
    assert (other.grad == 2).all()
    assert kept is not None
    assert (kept == 5).all()
