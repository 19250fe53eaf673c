"""PreNormBlock: the residual stream passes through, attention and feed-forward add to it."""

import numpy as np
import pytest
from module_checks import block, module_error
from tolerances import limit

from compyute_transformer.backend import Array
from compyute_transformer.ops import Mask
from compyute_transformer.ops.attention import NO_MASK


@pytest.fixture
def x() -> Array:
    return np.random.default_rng(3).normal(size=(2, 5, 6))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("mask", [NO_MASK, Mask(causal=True, window=2)])
def test_the_gradients_follow_the_differences(x: Array, dropout: float, mask: Mask) -> None:
    module = block(dropout=dropout)
    assert module_error(module, [x], lambda x: module(x, mask)) <= limit("differences", np.float64)


def test_the_stream_passes_through_what_adds_nothing(x: Array) -> None:
    module = block().to(dtype=np.float64)
    module.attention.out_weight.data[...] = 0.0
    module.feed_forward.down.weight.data[...] = 0.0
    assert np.array_equal(module(x), x)
    assert np.array_equal(module.backward(x), x)


def test_each_half_adds_to_the_stream_what_it_computes_from_the_norm_of_it(x: Array) -> None:
    module = block().to(dtype=np.float64).eval()
    mask = Mask(causal=True)
    stream = x + module.attention(module.attention_norm(x), mask=mask)
    stream = stream + module.feed_forward(module.feed_forward_norm(stream))
    assert np.array_equal(module(x, mask), stream)


def test_dropout_silences_both_halves_and_the_attention_weights(x: Array) -> None:
    module = block(dropout=0.5).to(dtype=np.float64)
    module(x)
    assert module.attention.generator.offset == 3
    module.eval()
    module(x)
    assert module.attention.generator.offset == 3
