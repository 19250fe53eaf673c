"""Blocks: the residual stream passes through, attention and feed-forward add to it; post-norm; a look at a memory."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from module_checks import block, cross_block, module_error, post_norm_block
from tolerances import limit

from compyute_transformer.arrays import Array
from compyute_transformer.nn import Module, Observer, observe
from compyute_transformer.nn.module import Phase
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


# --- post-norm -------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Array:
    return np.random.default_rng(4).normal(size=(2, 7, 6))


LENGTHS = Mask(key_lengths=np.array([7, 2]))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("mask", [NO_MASK, Mask(causal=True, key_lengths=np.array([5, 2]))])
def test_the_gradients_of_a_post_norm_block_follow_the_differences(x: Array, dropout: float, mask: Mask) -> None:
    module = post_norm_block(dropout)
    assert module_error(module, [x], lambda x: module(x, mask)) <= limit("differences", np.float64)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("memory_mask", [NO_MASK, LENGTHS])
def test_the_gradients_of_a_cross_block_follow_the_differences(
    x: Array, memory: Array, dropout: float, memory_mask: Mask
) -> None:
    module = cross_block(dropout)
    error = module_error(module, [x, memory], lambda x, m: module(x, m, Mask(causal=True), memory_mask))
    assert error <= limit("differences", np.float64)


def test_post_norm_normalizes_what_was_added(x: Array, memory: Array) -> None:
    module = cross_block().to(dtype=np.float64).eval()
    mask = Mask(causal=True)
    y = module.attention_norm(x + module.attention(x, None, mask))
    y = module.cross_attention_norm(y + module.cross_attention(y, memory, LENGTHS))
    y = module.feed_forward_norm(y + module.feed_forward(y))
    found = module(x, memory, mask, LENGTHS)
    assert np.array_equal(found, y)
    np.testing.assert_allclose(found.mean(-1), 0.0, atol=1e-12)
    np.testing.assert_allclose(found.var(-1), 1.0, atol=1e-3)
    alone = post_norm_block().to(dtype=np.float64).eval()
    y = alone.attention_norm(x + alone.attention(x, None, mask))
    assert np.array_equal(alone(x, mask), alone.feed_forward_norm(y + alone.feed_forward(y)))


def test_what_a_cross_block_may_not_see_of_the_memory_gets_no_gradient(x: Array, memory: Array) -> None:
    module = cross_block(0.3).to(dtype=np.float64)
    module(x, memory, Mask(causal=True), LENGTHS)
    _, dmemory = module.backward(np.random.default_rng(0).normal(size=x.shape))
    assert dmemory.shape == memory.shape
    assert dmemory[0].any(axis=1).all()
    assert dmemory[1, :2].any(axis=1).all()
    assert not dmemory[1, 2:].any()


class Dropped(Observer):
    """Counts how many draws of dropout each module took in its latest forward."""

    def __init__(self) -> None:
        self.draws: dict[str, int] = {}
        self._before = 0

    def before(self, path: str, module: Module, phase: Phase, inputs: tuple[Any, ...], *_: Any) -> None:
        self._before = getattr(module, "generator", self).__dict__.get("offset", 0)

    def after(self, path: str, module: Module, phase: Phase, inputs: tuple[Any, ...], output: Any, *_: Any) -> None:
        if hasattr(module, "generator"):
            self.draws[path] = module.generator.offset - self._before


@pytest.mark.parametrize("build", [post_norm_block, cross_block])
def test_dropout_reaches_the_attention_weights_and_every_sublayer(
    build: Callable[[float], Module], x: Array, memory: Array
) -> None:
    module, watch = build(0.5).to(dtype=np.float64), Dropped()
    inputs = (x,) if build is post_norm_block else (x, memory)
    with observe(module, watch):
        module(*inputs)
    attentions = ["attention"] if build is post_norm_block else ["attention", "cross_attention"]
    expected = {f"{name}{kind}" for name in attentions for kind in ("", "_dropout")} | {"feed_forward_dropout"}
    assert watch.draws == dict.fromkeys(expected, 1)
    module.eval()
    with observe(module, watch):
        module(*inputs)
    assert watch.draws == dict.fromkeys(expected, 0)
