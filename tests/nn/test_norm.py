"""LayerNorm: a scale and a shift around the op."""

import numpy as np
import pytest
import torch
from module_checks import module_error
from tolerances import limit

from compyute_transformer.nn import LayerNorm
from compyute_transformer.verify import relative_error
from compyute_transformer.verify.function import randomize


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_output_and_gradients_are_those_of_torch_for_scales_that_differ(bias: bool, eps: float) -> None:
    ours = LayerNorm(5, eps, bias=bias).to(dtype=np.float64)
    randomize(ours)
    theirs = torch.nn.LayerNorm(5, eps, bias=bias, dtype=torch.float64)
    theirs.load_state_dict({path: torch.from_numpy(array) for path, array in ours.state_dict().items()})
    x, dy = np.random.default_rng(0).normal(size=(2, 2, 4, 5))
    x_leaf = torch.from_numpy(x).requires_grad_()
    y = ours(x)
    dx = ours.backward(dy)
    their_y = theirs(x_leaf)
    their_y.backward(torch.from_numpy(dy))
    assert relative_error(y, their_y.detach().numpy()) <= limit("torch", np.float64)
    assert relative_error(dx, x_leaf.grad.numpy()) <= limit("torch", np.float64)
    for path, parameter in theirs.named_parameters():
        assert relative_error(dict(ours.named_parameters())[path].grad, parameter.grad.numpy()) <= 1e-10


@pytest.mark.parametrize("bias", [True, False])
def test_the_gradients_follow_the_differences(bias: bool) -> None:
    x = np.random.default_rng(3).normal(size=(2, 4, 5))
    assert module_error(LayerNorm(5, bias=bias), [x]) <= limit("differences", np.float64)


def test_it_starts_as_the_plain_norm() -> None:
    module = LayerNorm(5)
    assert np.array_equal(module.weight.data, np.ones(5))
    assert np.array_equal(module.bias.data, np.zeros(5))
    assert LayerNorm(5, bias=False).bias is None
    y = module(np.random.default_rng(0).normal(2.0, 3.0, size=(7, 5)).astype(np.float32))
    assert y.dtype == np.float32
    assert np.allclose(y.mean(-1), 0.0, atol=1e-6)
    assert np.allclose(y.var(-1), 1.0, atol=1e-3)
