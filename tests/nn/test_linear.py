"""Linear: a weight and a bias around the op."""

import numpy as np
import pytest
import torch
from module_checks import module_error
from tolerances import limit

from compyute_transformer.errors import ShapeError
from compyute_transformer.nn import Linear, init
from compyute_transformer.random import Generator
from compyute_transformer.verify import relative_error
from compyute_transformer.verify.function import randomize


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_output_and_gradients_are_those_of_torch(bias: bool, dtype: type) -> None:
    ours = Linear(5, 3, bias=bias, generator=Generator(1)).to(dtype=dtype)
    randomize(ours)
    theirs = torch.nn.Linear(5, 3, bias=bias, dtype=torch.float64 if dtype is np.float64 else torch.float32)
    theirs.load_state_dict({path: torch.from_numpy(array) for path, array in ours.state_dict().items()})
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(2, 4, 5)).astype(dtype), rng.normal(size=(2, 4, 3)).astype(dtype)
    x_leaf = torch.from_numpy(x).requires_grad_()
    y = ours(x)
    dx = ours.backward(dy)
    their_y = theirs(x_leaf)
    their_y.backward(torch.from_numpy(dy))
    assert y.dtype == dx.dtype == dtype
    assert relative_error(y, their_y.detach().numpy()) <= limit("torch", dtype)
    assert relative_error(dx, x_leaf.grad.numpy()) <= limit("torch", dtype)
    for path, parameter in theirs.named_parameters():
        assert relative_error(dict(ours.named_parameters())[path].grad, parameter.grad.numpy()) <= limit("torch", dtype)


@pytest.mark.parametrize("bias", [True, False])
def test_the_gradients_follow_the_differences(bias: bool) -> None:
    x = np.random.default_rng(3).normal(size=(2, 4, 5))
    assert module_error(Linear(5, 3, bias=bias), [x]) <= limit("differences", np.float64)


def test_without_a_bias_there_is_none() -> None:
    module = Linear(5, 3, bias=False)
    assert module.bias is None
    assert list(module.state_dict()) == ["weight"]


def test_biases_start_at_zero_and_weights_as_told() -> None:
    module = Linear(400, 300, generator=Generator(2))
    assert not module.bias.data.any()
    assert abs(module.weight.data.std() - 0.02) <= 0.0002
    uniform = Linear(400, 300, weight_init=init.xavier_uniform(), generator=Generator(2))
    assert abs(uniform.weight.data.max() - (6 / 700) ** 0.5) <= 1e-4


@pytest.mark.usefixtures("validation_only")
def test_an_input_of_another_width_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"linear: weight must have shape \(any, 4\)"):
        Linear(5, 3)(np.zeros((2, 4), dtype=np.float32))
