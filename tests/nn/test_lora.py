"""LoRA modules: they begin as the module they change, and merge into it again."""

import numpy as np
import pytest

from compyute_transformer.errors import ConfigError, RangeError
from compyute_transformer.nn import Linear, LoRA, LoRAAttention, LoRALinear, MultiHeadAttention, RotaryPosition
from compyute_transformer.nn.attention import NO_MASK, Mask
from compyute_transformer.random import Generator
from compyute_transformer.verify.function import randomize

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 5, 12))
CAUSAL = Mask(causal=True)


def attention() -> MultiHeadAttention:
    plain = MultiHeadAttention(12, 4, 2, rotary=RotaryPosition(4), head_dim=4, generator=Generator(1))
    return plain.to(dtype=np.float64)


def test_at_the_start_nothing_is_changed() -> None:
    linear, plain = Linear(12, 7).to(dtype=np.float64), attention()
    y, heads = linear(X), plain(X, None, CAUSAL)
    assert np.array_equal(LoRALinear(linear, 3)(X), y)
    assert np.array_equal(LoRAAttention(plain, [(0, 16), (24, 32)], rank=3)(X, None, CAUSAL), heads)


def test_a_is_uniform_and_b_zero() -> None:
    made = LoRA(400, 300, 64, 32, generator=Generator(1))
    assert made.scale == 0.5
    assert 0.0499 < abs(made.a.data).max() <= 0.05
    assert abs(made.a.data.mean()) < 1e-3
    assert not made.b.data.any()
    assert LoRA(4, 3).scale == 2.0


def test_merged_it_computes_the_same_without_lora() -> None:
    changed = LoRALinear(Linear(12, 7).to(dtype=np.float64), 3, 2.0)
    randomize(changed)
    y = changed(X)
    merged = changed.merge()
    assert type(merged) is Linear
    assert list(merged.state_dict()) == ["weight", "bias"]
    assert np.allclose(merged(X), y, rtol=1e-12)

    heads = LoRAAttention(attention(), [(0, 16), (16, 32)], rank=3, alpha=2.0)
    randomize(heads)
    y = heads(X, None, CAUSAL)
    plain = heads.merge()
    assert type(plain) is MultiHeadAttention
    assert list(plain.state_dict()) == ["in_weight", "in_bias", "out_weight", "out_bias"]
    assert np.allclose(plain(X, None, CAUSAL), y, rtol=1e-12)


def test_frozen_weights_get_no_gradient() -> None:
    plain = attention().requires_grad_(False)
    changed = LoRAAttention(plain, [(0, 32)], rank=2)
    changed.backward(RNG.normal(size=changed(X).shape))
    assert [name for name, p in changed.named_parameters() if p.grad is not None] == [
        *("lora_in.0.a", "lora_in.0.b", "lora_out.a", "lora_out.b")
    ]


def test_a_memory_and_a_rank_of_zero_are_refused() -> None:
    with pytest.raises(ConfigError, match="LoRAAttention: LoRA is for self-attention, got a memory"):
        LoRAAttention(MultiHeadAttention(12, 3), rank=2)._run(X, X, NO_MASK)
    with pytest.raises(RangeError, match="LoRA: rank"):
        LoRA(4, 3, 0)
