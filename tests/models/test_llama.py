"""Llama: beside PyTorch with every option, with a cache as without, and its refusals."""

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from tolerances import limit
from torch_checks import torch_errors

from compyute_transformer.arrays import Array
from compyute_transformer.errors import ConfigError, RangeError
from compyute_transformer.generation import KeyValueCache, Sampling
from compyute_transformer.models import Llama, LlamaConfig
from compyute_transformer.nn.attention import Implementation
from compyute_transformer.verify import relative_error
from compyute_transformer.verify.function import randomize

SMALL = LlamaConfig(vocab_size=11, context_length=8, embed_dim=12, num_heads=3, num_layers=2)
SCALED = {"rope_factor": 2.0, "rope_original_length": 40, "rope_theta": 50.0}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"tie_word_embeddings": False},
    {"attn_bias": True},
    {"attn_bias": True, "attn_out_bias": True, "mlp_bias": True},
    {"gate_activation": "gelu"},
    {"gate_activation": "gelu_tanh"},
    {"window": 3},
    {"num_kv_heads": 1, "embed_dim": 10, "head_dim": 6},
    {"qk_norm": True, "norm_eps": 0.01, "head_dim": 6},
    {"mlp_dim": 7, "dropout": 0.2},
    {"rope_theta": 5.0},
    *({"rope_scaling": name, **SCALED} for name in ("linear", "llama3", "yarn")),
    {"rope_scaling": "llama3", **SCALED, "rope_low_frequency_factor": 2.0, "rope_high_frequency_factor": 3.0},
    {"rope_scaling": "yarn", **SCALED, "rope_beta_fast": 2.0, "rope_beta_slow": 0.2, "rope_truncate": False},
    {"rope_scaling": "yarn", **SCALED, "rope_attention_factor": 1.3},
    {"rope_scaling": "linear", "rope_factor": 4.0},
    {"soft_cap": 0.5},
    {"positions": "alibi"},
    {"positions": "alibi", "soft_cap": 0.7, "window": 3, "num_kv_heads": 1, "dropout": 0.2},
]


def model(config: LlamaConfig = SMALL, dtype: Any = np.float64, seed: int = 0) -> Llama:
    made = Llama(config, seed).to(dtype=dtype)
    randomize(made, seed)
    return made


def draw_ids(B: int = 2, T: int = 8, seed: int = 0) -> Array:
    return np.random.default_rng([seed, 5]).integers(0, 11, (B, T))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_logits_loss_and_every_gradient_are_those_of_torch(options: dict[str, Any], dtype: type) -> None:
    errors = torch_errors(replace(SMALL, **options), dtype)
    assert len(errors) >= 18
    assert not {name: error for name, error in errors.items() if not error <= limit("torch", dtype)}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_option_changes_the_logits(options: dict[str, Any]) -> None:
    config, ids = replace(SMALL, **options), draw_ids()
    if options in ({}, {"tie_word_embeddings": False}):
        return
    made, other = Llama(SMALL, 0), Llama(config, 0)
    for each in (made, other):
        randomize(each)
    shared = {name: array for name, array in made.state_dict().items() if name in dict(other.named_parameters())}
    if all(shared[name].shape == p.data.shape for name, p in other.named_parameters() if name in shared):
        other.load_state_dict(shared, strict=False)
    assert np.abs(made(ids) - other(ids)).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "implementation"),
    [*((options, "auto") for options in OPTIONS), *((OPTIONS[8], name) for name in get_args(Implementation))],
    ids=str,
)
def test_with_a_cache_the_logits_are_those_of_the_whole_text(
    options: dict[str, Any], implementation: Implementation
) -> None:
    made, ids = model(replace(SMALL, **options, attn_implementation=implementation)).eval(), draw_ids()
    whole, cache = made(ids), KeyValueCache(made, 2)
    parts = [made(part, cache) for part in np.split(ids, [3, 4, 5], axis=1)]
    assert relative_error(np.concatenate(parts, axis=1), whole) <= 1e-12


def test_padding_moves_a_row_without_any_effect() -> None:
    made, ids = model(replace(SMALL, qk_norm=True, window=3)).eval(), draw_ids(1, 5)
    padded = np.concatenate([np.zeros((1, 3), ids.dtype), ids], axis=1)
    logits = made(padded, padding=np.array([3]))
    assert relative_error(logits[:, 3:], made(ids)) <= 1e-12


def test_a_cap_may_be_a_number_of_numpy() -> None:
    assert replace(SMALL, soft_cap=np.float32(30)).soft_cap == 30


def test_alibi_needs_no_even_width_and_reads_a_part_of_a_text_wherever_it_stands() -> None:
    made, ids = model(LlamaConfig(11, 8, 15, 3, 1, positions="alibi")).eval(), draw_ids(1, 8)
    assert dict(made.named_modules())["blocks.0.attention"].rotary is None
    padded = np.concatenate([np.zeros((1, 2), ids.dtype), ids[:, :6]], axis=1)
    assert relative_error(made(padded, padding=np.array([2]))[:, 2:], made(ids[:, :6])) <= 1e-12


@pytest.mark.parametrize("max_new_tokens", [5, 20])  # 20: past the end of the context
def test_greedy_text_with_a_cache_is_that_without(max_new_tokens: int) -> None:
    made = model(replace(SMALL, num_kv_heads=1), np.float32).eval()
    text = [3, 1, 4]
    for _ in range(max_new_tokens):
        text.append(int(made(np.array([text[-8:]]))[0, -1].argmax()))
    generated = made.generate(np.array([3, 1, 4]), max_new_tokens=max_new_tokens, sampling=Sampling(temperature=0.0))
    assert generated.tolist() == text


def test_dynamic_scaling_within_the_original_length_is_none_and_past_it_has_no_cache() -> None:
    options = {"rope_scaling": "dynamic", "rope_factor": 2.0, "rope_original_length": 5}
    scaled, plain, ids = model(replace(SMALL, **options)).eval(), model().eval(), draw_ids()
    assert np.array_equal(scaled(ids[:, :5]), plain(ids[:, :5]))
    assert np.abs(scaled(ids) - plain(ids)).max() > 1e-3
    cache = KeyValueCache(scaled, 2)
    scaled(ids[:, :5], cache)
    with pytest.raises(ConfigError, match=r"dynamic scaling.*got positions 5 to 6 behind a cache"):
        scaled(ids[:, 5:6], cache)


def test_sizes_that_are_left_out_have_those_of_the_papers() -> None:
    made = Llama(LlamaConfig(vocab_size=5, embed_dim=384, num_heads=6, num_layers=1))
    assert made.blocks[0].feed_forward.gate.weight.shape == (1024, 384)
    assert made.head.weight is made.token_embedding.weight
    assert {name for name, _ in made.named_parameters() if name.endswith("bias")} == set()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"embed_dim": 15}, "rotary positions cannot be computed with these sizes. .*width is even.*got 5"),
        ({"embed_dim": 13}, "num_heads must divide embed_dim"),
        ({"num_kv_heads": 2}, "num_kv_heads num_heads"),
        ({"head_dim": 0}, "head_dim is a whole number of at least 1, or None"),
        ({"gate_activation": "relu"}, "gate_activation is one of silu, gelu, gelu_tanh, got 'relu'"),
        ({"rope_scaling": "ntk"}, "rope_scaling is one of none, linear, dynamic, llama3, yarn, got 'ntk'"),
        ({"rope_theta": 0.0}, "theta"),
        ({"rope_scaling": "linear", "rope_factor": 0.0}, "factor lies in"),
        ({"positions": "learned"}, "positions are rotary or alibi, got 'learned'"),
        *(({"soft_cap": cap}, r"soft_cap lies in \[0.001, 1e\+06\)") for cap in (0.0, 1e6, "30", True)),
        ({"norm_eps": -1.0}, r"norm_eps lies in \[0, 1\)"),
        ({"dropout": 1.0}, "dropout lies in"),
    ],
    ids=str,
)
def test_what_no_model_can_have_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"^LlamaConfig: .*{words}"):
        replace(SMALL, **options)


def test_positions_past_the_context_are_refused() -> None:
    with pytest.raises(RangeError, match="Llama: positions of ids lie in"):
        model()(draw_ids(1, 9))
