"""FeedForward: up, activation, down."""

import numpy as np
import pytest
import torch
from module_checks import module_error
from tolerances import limit

from compyute_transformer.errors import ConfigError
from compyute_transformer.nn import FeedForward, init
from compyute_transformer.nn.feed_forward import Activation
from compyute_transformer.random import Generator
from compyute_transformer.verify import relative_error
from compyute_transformer.verify.function import randomize

ACTIVATIONS = {
    "gelu_tanh": torch.nn.GELU("tanh"),
    "gelu": torch.nn.GELU(),
    "relu": torch.nn.ReLU(),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_are_those_of_torch(activation: Activation, bias: bool) -> None:
    ours = FeedForward(5, 7, bias=bias, activation=activation).to(dtype=np.float64)
    randomize(ours)
    up, down = (torch.nn.Linear(*widths, bias, dtype=torch.float64) for widths in ((5, 7), (7, 5)))
    theirs = torch.nn.Sequential(up, ACTIVATIONS[activation], down)
    names = {path: path.replace("up", "0").replace("down", "2") for path in ours.state_dict()}
    theirs.load_state_dict({names[path]: torch.from_numpy(array) for path, array in ours.state_dict().items()})
    x, dy = np.random.default_rng(0).normal(size=(2, 2, 4, 5))
    x_leaf = torch.from_numpy(x).requires_grad_()
    y = ours(x)
    dx = ours.backward(dy)
    their_y = theirs(x_leaf)
    their_y.backward(torch.from_numpy(dy))
    assert relative_error(y, their_y.detach().numpy()) <= limit("torch", np.float64)
    assert relative_error(dx, x_leaf.grad.numpy()) <= limit("torch", np.float64)
    for path, parameter in ours.named_parameters():
        theirs_grad = theirs.get_parameter(names[path]).grad.numpy()
        assert relative_error(parameter.grad, theirs_grad) <= limit("torch", np.float64)


@pytest.mark.parametrize("activation", ["gelu_tanh", "gelu"])  # differences would reach across the kink of relu
def test_the_gradients_follow_the_differences(activation: Activation) -> None:
    x = np.random.default_rng(3).normal(size=(2, 4, 5))
    assert module_error(FeedForward(5, 7, activation=activation), [x]) <= limit("differences", np.float64)


def test_the_way_out_may_start_otherwise() -> None:
    module = FeedForward(30, 120, weight_init=(init.normal(), init.normal(0.5)), generator=Generator(1))
    assert abs(module.up.weight.data.std() - 0.02) <= 0.001
    assert abs(module.down.weight.data.std() - 0.5) <= 0.02
    both = FeedForward(30, 120, weight_init=init.normal(0.5), generator=Generator(1))
    assert abs(both.up.weight.data.std() - 0.5) <= 0.02
    assert abs(both.down.weight.data.std() - 0.5) <= 0.02


def test_an_activation_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="one of gelu_tanh, gelu, relu, got 'swish'"):
        FeedForward(5, 7, activation="swish")
