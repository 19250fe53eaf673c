"""A user's own module or op: right gradients pass, wrong, missing and misshapen ones are named."""

from typing import Any

import numpy as np
import pytest

from compyute_transformer.arrays import Array
from compyute_transformer.errors import VerificationError
from compyute_transformer.models import GPT, GPTConfig
from compyute_transformer.nn import Linear, Module, MultiHeadAttention, Parameter
from compyute_transformer.ops.norm import layer_norm_backward, layer_norm_forward
from compyute_transformer.verify import check_module, check_op

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 5, 12)).astype(np.float32)


class RMSNorm(Module):
    """y = weight · x / √(mean(x²) + ε)."""

    def __init__(self, dim: int, fault: str = "") -> None:
        super().__init__()
        self.weight = Parameter(RNG.normal(size=dim).astype(np.float32))
        self.fault = fault

    def forward(self, x: Array) -> Array:
        rms = np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)
        self.save_for_backward((x, rms))
        y: Array = self.weight.data * x / rms
        return y

    def backward(self, dy: Array) -> Array | None:
        x, rms = self.pop_saved()
        dxhat = dy * self.weight.data
        mean = (dxhat * x / rms).mean(-1, keepdims=True)
        dx = (dxhat - (0 if self.fault == "mean" else x / rms * mean)) / rms
        dweight = (dy * x / rms).sum((0, 1))
        if self.fault != "weight is forgotten":
            self.weight.accumulate(dweight * (1.001 if self.fault == "weight" else 1.0))
        if self.fault == "shape":
            return dx[0]
        if self.fault == "raises":
            raise KeyError("lost")
        return None if self.fault == "input" else dx


def test_right_gradients_pass_and_are_all_reported() -> None:
    results = check_module(RMSNorm(12), X)
    assert [result.argument for result in results] == ["dweight", "dinputs[0]"]
    assert all(result.passed for result in results)


@pytest.mark.parametrize(
    ("fault", "named", "right"),
    [
        ("mean", r"dinputs\[0\]: relative error 0\.", "dweight"),
        ("weight", r"dweight: relative error 0\.00", "dinputs"),
        ("weight is forgotten", r"dweight: .*there is no gradient", "dinputs"),
        ("input", r"dinputs\[0\]: .*there is no gradient", "dweight"),
        ("shape", r"dinputs\[0\]: .*shape \(5, 12\) instead of \(2, 5, 12\)", "dweight"),
        ("raises", "RMSNorm: the forward or backward raised KeyError: 'lost'", "dweight"),
    ],
)
def test_a_wrong_gradient_is_named_and_the_right_ones_are_not(fault: str, named: str, right: str) -> None:
    with pytest.raises(VerificationError, match=named) as caught:
        check_module(RMSNorm(12, fault), X)
    assert right not in str(caught.value)


def test_the_module_is_left_as_it_was() -> None:
    module = RMSNorm(12).eval()
    before = module.weight.data.copy()
    check_module(module, X)
    assert module.weight.dtype == np.float32
    assert np.array_equal(module.weight.data, before)
    assert module.weight.grad is None
    assert not module.training


def test_dropout_several_inputs_and_ids_are_understood() -> None:
    memory = RNG.normal(size=(2, 7, 12)).astype(np.float32)
    names = [result.argument for result in check_module(MultiHeadAttention(12, 3, dropout=0.4), X, memory)]
    assert names[-2:] == ["dinputs[0]", "dinputs[1]"]
    model = GPT(GPTConfig(11, context_length=5, embed_dim=12, num_heads=3, num_layers=1, dropout=0.2))
    results = check_module(model, RNG.integers(0, 11, (2, 5)))
    assert len(results) == len(list(model.parameters()))


def test_a_bias_that_is_zero_is_verified_too() -> None:
    class Biased(Linear):
        def backward(self, dy: Array) -> Array:
            dx: Array = super().backward(2 * dy) / 2
            self.weight.grad /= 2
            return dx

    module = Biased(12, 3)
    assert module.bias is not None
    assert not module.bias.data.any()
    with pytest.raises(VerificationError, match=r"1 of 3 gradients .*\n  dbias: relative error"):
        check_module(module, X)


def test_an_op_is_verified_as_a_pair() -> None:
    weight, bias = RNG.normal(size=12), RNG.normal(size=12)
    assert len(check_op(layer_norm_forward, layer_norm_backward, X, weight, bias)) == 3

    def wrong(dy: Array, saved: Any) -> Any:
        dx, dweight, dbias = layer_norm_backward(dy, saved)
        return dx, dweight, dbias - dy.mean((0, 1))

    with pytest.raises(VerificationError, match=r"layer_norm_forward: 1 of 3 gradients differ.*\n  dinputs\[2\]"):
        check_op(layer_norm_forward, wrong, X, weight, bias)


def test_a_nan_is_wrong() -> None:
    class Broken(Linear):
        def backward(self, dy: Array) -> Array:
            dx: Array = super().backward(dy)
            return dx * np.nan

    with pytest.raises(VerificationError, match=r"dinputs\[0\]: relative error nan"):
        check_module(Broken(12, 3), X)
