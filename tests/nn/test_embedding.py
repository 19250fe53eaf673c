"""Embedding: a row for each id; the gradients of equal ids add up."""

import numpy as np
import pytest
import torch
from module_checks import module_error
from tolerances import limit

from compyute_transformer import random
from compyute_transformer.errors import RangeError
from compyute_transformer.nn import Embedding, init
from compyute_transformer.random import Generator
from compyute_transformer.verify import relative_error

IDS = np.array([[3, 0, 3, 6], [6, 3, 1, 2]])


def test_the_weight_is_drawn_from_the_generator() -> None:
    assert Embedding(7, 5).weight.shape == (7, 5)
    first, second = Embedding(7, 5, generator=Generator(4)), Embedding(7, 5, generator=Generator(4))
    assert np.array_equal(first.weight.data, second.weight.data)
    assert not np.array_equal(first.weight.data, Embedding(7, 5, generator=Generator(5)).weight.data)
    wide = Embedding(7, 5, initialise=init.normal(0.04), generator=Generator(4))
    assert np.array_equal(wide.weight.data, first.weight.data * np.float32(2.0))


def test_without_a_generator_the_default_one_draws() -> None:
    random.seed(8)
    first = [Embedding(7, 5).weight.data for _ in range(2)]
    random.seed(8)
    second = [Embedding(7, 5).weight.data for _ in range(2)]
    random.seed(0)
    assert np.array_equal(first, second)
    assert not np.array_equal(first[0], first[1])


def test_rows_and_their_gradient_are_those_of_torch() -> None:
    module = Embedding(7, 5, generator=Generator(1)).to(dtype=np.float64)
    weight = torch.from_numpy(module.state_dict()["weight"]).requires_grad_()
    y = module(IDS)
    theirs = torch.nn.functional.embedding(torch.from_numpy(IDS), weight)
    dy = np.random.default_rng(0).normal(size=y.shape)
    assert module.backward(dy) is None, "ids have no gradient"
    theirs.backward(torch.from_numpy(dy))
    assert np.array_equal(y, theirs.detach().numpy())
    assert weight.grad is not None
    assert relative_error(module.weight.grad, weight.grad.numpy()) <= limit("torch", y.dtype)


def test_the_gradient_follows_the_differences() -> None:
    module = Embedding(7, 5)
    assert module_error(module, [], lambda: module(IDS)) <= limit("differences", np.float64)


@pytest.mark.parametrize("wrong", [-1, 7])
def test_an_id_outside_the_table_is_refused(wrong: int) -> None:
    with pytest.raises(RangeError, match=rf"\[0, 7\), got {wrong}"):
        Embedding(7, 5)(np.array([[0, wrong]]))
