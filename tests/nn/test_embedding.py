"""Embedding: a row for each id, a projection of each patch, a vector before all; gradients add up."""

import numpy as np
import pytest
import torch
from module_checks import module_error
from tolerances import limit

from compyute_transformer import random
from compyute_transformer.errors import RangeError
from compyute_transformer.nn import ClassToken, Embedding, PatchEmbedding, init
from compyute_transformer.random import Generator
from compyute_transformer.verify import relative_error

IDS = np.array([[3, 0, 3, 6], [6, 3, 1, 2]])


def test_the_weight_is_drawn_from_the_generator() -> None:
    assert Embedding(7, 5).weight.shape == (7, 5)
    first, second = Embedding(7, 5, generator=Generator(4)), Embedding(7, 5, generator=Generator(4))
    assert np.array_equal(first.weight.data, second.weight.data)
    assert not np.array_equal(first.weight.data, Embedding(7, 5, generator=Generator(5)).weight.data)
    wide = Embedding(7, 5, weight_init=init.normal(0.04), generator=Generator(4))
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


# --- patches and the class token -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_patches_are_those_of_torchs_convolution(bias: bool) -> None:
    module = PatchEmbedding(2, 3, 5, bias=bias, generator=Generator(1)).to(dtype=np.float64)
    images = np.random.default_rng(0).normal(size=(2, 4, 6, 3))
    conv = torch.nn.Conv2d(3, 5, 2, 2, bias=bias, dtype=torch.float64)
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(module.weight.data.reshape(5, 2, 2, 3).transpose(0, 3, 1, 2)))
        if bias:
            module.bias.data[...] = np.arange(5.0)
            conv.bias.copy_(torch.arange(5.0))
    leaf = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).requires_grad_()
    y, theirs = module(images), conv(leaf).flatten(2).transpose(1, 2)
    assert relative_error(y, theirs.detach().numpy()) <= limit("torch", y.dtype)
    dy = np.random.default_rng(1).normal(size=y.shape)
    theirs.backward(torch.from_numpy(dy))
    assert leaf.grad is not None
    assert relative_error(module.backward(dy), leaf.grad.numpy().transpose(0, 2, 3, 1)) <= limit("torch", y.dtype)
    assert (module.bias is None) == (not bias)


def test_embedded_patches_start_as_large_as_the_pixels() -> None:
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    assert PatchEmbedding(8, 3, 64, generator=Generator(1))(images).std() == pytest.approx(1.0, abs=0.1)


def test_patches_and_the_class_token_follow_the_differences() -> None:
    rng = np.random.default_rng(0)
    assert module_error(PatchEmbedding(2, 3, 5), [rng.normal(size=(2, 4, 6, 3))]) <= limit("differences", np.float64)
    assert module_error(ClassToken(5), [rng.normal(size=(2, 3, 5))]) <= limit("differences", np.float64)


def test_the_gradient_of_the_class_token_is_added_to() -> None:
    """A gradient that is set, not added to, loses all backwards but the last."""
    module, x = ClassToken(4).to(dtype=np.float64), np.zeros((2, 3, 4))
    dy = np.random.default_rng(0).normal(size=(2, 4, 4))
    for _ in range(2):
        module(x)
        assert np.array_equal(module.backward(dy), dy[:, 1:])
    assert module.weight.shape == module.weight.grad.shape == (4,)
    assert np.allclose(module.weight.grad, 2 * dy[:, 0].sum(0), rtol=1e-15)
