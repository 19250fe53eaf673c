"""A user's own module or op is verified, and what is wrong is named."""

from typing import Any

import numpy as np
import pytest

from compyute_transformer import nn, verify
from compyute_transformer.arrays import Array
from compyute_transformer.random import DROPOUT, Generator

X = np.random.default_rng(0).normal(size=(2, 5, 6))

pytestmark = pytest.mark.usefixtures("validation_only")


class Scale(nn.Module):
    """y = x · weight, with a factor on each gradient."""

    def __init__(self, x_factor: float = 1.0, weight_factor: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(np.ones(6, np.float32))
        self.factors = x_factor, weight_factor

    def forward(self, x: Array) -> Array:
        self.save_for_backward(x)
        return x * self.weight.data

    def backward(self, dy: Array) -> Array:
        x = self.pop_saved()
        self.weight.accumulate(self.factors[1] * (dy * x).sum((0, 1)))
        return self.factors[0] * dy * self.weight.data


def test_a_right_module_returns_one_result_for_each_gradient() -> None:
    assert [result.argument for result in verify.check_module(Scale(), X)] == ["dweight", "dinput 0"]
    assert len(verify.check_module(nn.LayerNorm(6), X.astype(np.float32))) == 3


def test_blocks_with_dropout_and_modules_of_ids_are_verified() -> None:
    weights, drops = Generator(0), Generator(0, DROPOUT)
    attention = nn.MultiHeadAttention(6, 2, dropout=0.3, generator=weights, dropout_generator=drops)
    assert {result.argument for result in verify.check_module(attention, X)} >= {"din_weight", "dinput 0"}
    assert len(verify.check_module(nn.Embedding(7, 4), np.array([[1, 3, 3]]))) == 1


@pytest.mark.parametrize(
    ("factors", "wrong"), [((1.0, 1.001), "dweight"), ((-1.0, 1.0), "dinput 0"), ((np.nan, 1.0), "dinput 0")]
)
def test_a_wrong_gradient_is_named_with_its_error(factors: tuple[float, float], wrong: str) -> None:
    with pytest.raises(verify.VerificationError, match=f"Scale: wrong gradients: {wrong}\\.") as caught:
        verify.check_module(Scale(*factors), X)
    table = str(caught.value).splitlines()[1:]
    assert [line.split("  ")[1] for line in table if "EXCEEDS TOLERANCE" in line] == [wrong]
    assert sum("within tolerance" in line for line in table) == 1


def test_the_module_stays_as_it_was() -> None:
    module = nn.Linear(6, 3)
    before = module.state_dict()
    verify.check_module(module, X)
    assert module.weight.data.dtype == np.float32
    assert module.weight.grad is None or not np.any(module.weight.grad)
    for path, array in module.state_dict().items():
        np.testing.assert_array_equal(array, before[path])


def test_a_module_that_raises_or_has_no_gradient_is_refused() -> None:
    with pytest.raises(verify.VerificationError, match="ShapeError"):
        verify.check_module(nn.Linear(5, 3), X)
    with pytest.raises(verify.VerificationError, match="nothing could be compared"):
        verify.check_op(lambda ids: (ids * 2, None), lambda dy, saved: (), np.arange(3))


def test_an_op_is_verified_by_its_two_functions() -> None:
    def forward(x: Array, weight: Array, power: int) -> tuple[Array, Any]:
        return x**power * weight, (x, weight, power)

    def backward(dy: Array, saved: Any) -> tuple[Array, Array]:
        x, weight, power = saved
        return dy * power * x ** (power - 1) * weight, (dy * x**power).sum((0, 1))

    assert len(verify.check_op(forward, backward, X, np.ones(6) * 0.7, 3)) == 2
    with pytest.raises(verify.VerificationError, match="forward: wrong gradients: dinput 1"):
        verify.check_op(forward, lambda dy, saved: (backward(dy, saved)[0], saved[1]), X, np.ones(6) * 0.7, 3)
