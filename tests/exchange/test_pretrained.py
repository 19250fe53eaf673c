"""Hugging Face directories: their names and layouts, round trips, and what is refused.

The files are built here from their published layout, tensor by tensor, and the logits are those of the PyTorch versions
of `verify/torch/` with the same numbers.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compyute_transformer.arrays import Array
from compyute_transformer.data import load_tokenizer, train_tokenizer
from compyute_transformer.errors import ConfigError, DataError, StateError
from compyute_transformer.exchange import AutoModel, read_tensors, write_tensors
from compyute_transformer.exchange.pretrained import file_order
from compyute_transformer.models import (
    GPT,
    Bert,
    BertConfig,
    GPTConfig,
    Llama,
    LlamaConfig,
    TransformerLM,
    TransformerLMConfig,
    ViT,
    ViTConfig,
)
from compyute_transformer.verify.function import randomize

RNG = np.random.default_rng(0)
C, H, K, D, F, V, L = 12, 3, 1, 4, 20, 11, 16

GPT2 = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": V,
    "n_positions": L,
    "n_embd": C,
    "n_layer": 2,
    "n_head": H,
    "n_inner": F,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-3,
    "initializer_range": 0.02,
}
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": V,
    "max_position_embeddings": L,
    "hidden_size": C,
    "intermediate_size": F,
    "num_hidden_layers": 2,
    "num_attention_heads": H,
    "num_key_value_heads": K,
    "head_dim": D,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-3,
    "rope_theta": 500.0,
    "tie_word_embeddings": False,
}
BERT = {
    "model_type": "bert",
    "architectures": ["BertForMaskedLM"],
    "vocab_size": V,
    "max_position_embeddings": L,
    "hidden_size": C,
    "intermediate_size": F,
    "num_hidden_layers": 2,
    "num_attention_heads": H,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-3,
    "hidden_dropout_prob": 0.1,
}
VIT = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "image_size": [8, 12],
    "patch_size": 4,
    "num_channels": 3,
    "hidden_size": C,
    "num_hidden_layers": 2,
    "num_attention_heads": H,
    "intermediate_size": F,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "id2label": {str(i): f"class {i}" for i in range(5)},
}


def draw(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32) * np.float32(shape[-1] ** -0.5)


def gpt2_tensors() -> dict[str, Array]:
    tensors = {"wte.weight": draw(V, C), "wpe.weight": draw(L, C)}
    for i in range(2):
        shapes = {"attn.c_attn": (C, 3 * C), "attn.c_proj": (C, C), "mlp.c_fc": (C, F), "mlp.c_proj": (F, C)}
        for name, shape in shapes.items():
            tensors |= {f"h.{i}.{name}.weight": draw(*shape), f"h.{i}.{name}.bias": draw(shape[1])}
        for name in ("ln_1", "ln_2"):
            tensors |= {f"h.{i}.{name}.weight": draw(C), f"h.{i}.{name}.bias": draw(C)}
    return tensors | {"ln_f.weight": draw(C), "ln_f.bias": draw(C)}


def llama_tensors(**options: Any) -> dict[str, Array]:
    tensors = {"model.embed_tokens.weight": draw(V, C), "model.norm.weight": draw(C), "lm_head.weight": draw(V, C)}
    for i in range(2):
        layer = f"model.layers.{i}"
        rows = {"self_attn.q_proj": (H * D, C), "self_attn.k_proj": (K * D, C), "self_attn.v_proj": (K * D, C)}
        rows |= {"self_attn.o_proj": (C, H * D)}
        rows |= {"mlp.gate_proj": (F, C), "mlp.up_proj": (F, C), "mlp.down_proj": (C, F)}
        tensors |= {f"{layer}.{name}.weight": draw(*shape) for name, shape in rows.items()}
        tensors |= {f"{layer}.{name}.weight": draw(C) for name in ("input_layernorm", "post_attention_layernorm")}
        if options.get("model_type") == "qwen2":
            tensors |= {f"{layer}.self_attn.{x}_proj.bias": draw(n * D) for x, n in (("q", H), ("k", K), ("v", K))}
        if options.get("model_type") == "qwen3":
            tensors |= {f"{layer}.self_attn.{x}_norm.weight": draw(D) for x in "qk"}
    return tensors


def bert_tensors() -> dict[str, Array]:
    names = {"word_embeddings": V, "position_embeddings": L, "token_type_embeddings": 2}
    tensors = {f"bert.embeddings.{name}.weight": draw(rows, C) for name, rows in names.items()}
    linears = {f"attention.self.{x}": (C, C) for x in ("query", "key", "value")}
    linears |= {"attention.output.dense": (C, C), "intermediate.dense": (F, C), "output.dense": (C, F)}
    norms = ["bert.embeddings", "cls.predictions.transform"]
    for i in range(2):
        layer = f"bert.encoder.layer.{i}"
        for name, shape in linears.items():
            tensors |= {f"{layer}.{name}.weight": draw(*shape), f"{layer}.{name}.bias": draw(shape[0])}
        norms += [f"{layer}.attention.output", f"{layer}.output"]
    for name in norms:
        tensors |= {f"{name}.LayerNorm.weight": draw(C), f"{name}.LayerNorm.bias": draw(C)}
    dense = "cls.predictions.transform.dense"
    return tensors | {f"{dense}.weight": draw(C, C), f"{dense}.bias": draw(C), "cls.predictions.bias": draw(V)}


def vit_tensors() -> dict[str, Array]:
    tensors = {
        "vit.embeddings.cls_token": draw(1, 1, C),
        "vit.embeddings.position_embeddings": draw(1, 7, C),
        "vit.embeddings.patch_embeddings.projection.weight": draw(C, 3, 4, 4),
        "vit.embeddings.patch_embeddings.projection.bias": draw(C),
        "vit.layernorm.weight": draw(C),
        "vit.layernorm.bias": draw(C),
        "classifier.weight": draw(5, C),
        "classifier.bias": draw(5),
    }
    for i in range(2):
        layer = f"vit.encoder.layer.{i}"
        shapes = {f"attention.attention.{x}": (C, C) for x in ("query", "key", "value")}
        shapes |= {"attention.output.dense": (C, C), "intermediate.dense": (F, C), "output.dense": (C, F)}
        for name, shape in shapes.items():
            tensors |= {f"{layer}.{name}.weight": draw(*shape), f"{layer}.{name}.bias": draw(shape[0])}
        for name in ("layernorm_before", "layernorm_after"):
            tensors |= {f"{layer}.{name}.weight": draw(C), f"{layer}.{name}.bias": draw(C)}
    return tensors


def directory(folder: Path, config: dict[str, Any], tensors: dict[str, Array], dtype: str = "float32") -> Path:
    folder.mkdir(exist_ok=True)
    write_tensors(folder, tensors, dtype)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


# --- what a file says, by formulas in PyTorch ------------------------------------------------------------------------


def linear(x: Any, tensors: dict[str, Any], name: str, transposed: bool = False) -> Any:
    weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
    return torch.nn.functional.linear(x, weight.T if transposed else weight, bias)


def attend(q: Any, k: Any, v: Any, causal: bool) -> Any:
    heads = [x.unflatten(2, (-1, D)).transpose(1, 2) for x in (q, k, v)]
    y = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=causal, enable_gqa=True)
    return y.transpose(1, 2).flatten(2)


def norm(x: Any, tensors: dict[str, Any], name: str, eps: float) -> Any:
    return torch.nn.functional.layer_norm(x, (C,), tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps)


def gpt2_logits(tensors: dict[str, Any], ids: Any) -> Any:
    x = tensors["wte.weight"][ids] + tensors["wpe.weight"][: ids.shape[1]]
    for i in range(2):
        qkv = linear(norm(x, tensors, f"h.{i}.ln_1", 1e-3), tensors, f"h.{i}.attn.c_attn", True)
        x = x + linear(attend(*qkv.split(C, 2), causal=True), tensors, f"h.{i}.attn.c_proj", True)
        up = linear(norm(x, tensors, f"h.{i}.ln_2", 1e-3), tensors, f"h.{i}.mlp.c_fc", True)
        x = x + linear(torch.nn.functional.gelu(up, approximate="tanh"), tensors, f"h.{i}.mlp.c_proj", True)
    return norm(x, tensors, "ln_f", 1e-3) @ tensors["wte.weight"].T


def llama_logits(tensors: dict[str, Any], ids: Any) -> Any:
    def rms(x: Any, name: str) -> Any:
        return x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * tensors[f"{name}.weight"]

    angles = torch.arange(ids.shape[1]).double()[:, None] * 500.0 ** (-torch.arange(0, D, 2).double() / D)
    cos, sin = angles.cos(), angles.sin()

    def turn(x: Any) -> Any:
        a, b = x.unflatten(2, (-1, D)).split(D // 2, 3)
        return torch.cat((a * cos[:, None] - b * sin[:, None], b * cos[:, None] + a * sin[:, None]), 3).flatten(2)

    def of_heads(x: Any, name: str) -> Any:
        return rms(x.unflatten(2, (-1, D)), name).flatten(2) if f"{name}.weight" in tensors else x

    x = tensors["model.embed_tokens.weight"][ids]
    for i in range(2):
        layer = f"model.layers.{i}"
        y = rms(x, f"{layer}.input_layernorm")
        q, k, v = (linear(y, tensors, f"{layer}.self_attn.{name}_proj") for name in "qkv")
        q, k = (of_heads(y, f"{layer}.self_attn.{name}_norm") for y, name in ((q, "q"), (k, "k")))
        x = x + linear(attend(turn(q), turn(k), v, causal=True), tensors, f"{layer}.self_attn.o_proj")
        y = rms(x, f"{layer}.post_attention_layernorm")
        gate, up = (linear(y, tensors, f"{layer}.mlp.{name}_proj") for name in ("gate", "up"))
        x = x + linear(torch.nn.functional.silu(gate) * up, tensors, f"{layer}.mlp.down_proj")
    return linear(rms(x, "model.norm"), tensors, "lm_head")


def bert_logits(tensors: dict[str, Any], ids: Any) -> Any:
    embeddings = "bert.embeddings"
    x = tensors[f"{embeddings}.word_embeddings.weight"][ids] + tensors[f"{embeddings}.token_type_embeddings.weight"][0]
    x = x + tensors[f"{embeddings}.position_embeddings.weight"][: ids.shape[1]]
    x = norm(x, tensors, f"{embeddings}.LayerNorm", 1e-3)
    for i in range(2):
        layer = f"bert.encoder.layer.{i}"
        qkv = [linear(x, tensors, f"{layer}.attention.self.{name}") for name in ("query", "key", "value")]
        y = linear(attend(*qkv, causal=False), tensors, f"{layer}.attention.output.dense")
        x = norm(x + y, tensors, f"{layer}.attention.output.LayerNorm", 1e-3)
        y = torch.nn.functional.gelu(linear(x, tensors, f"{layer}.intermediate.dense"))
        x = norm(x + linear(y, tensors, f"{layer}.output.dense"), tensors, f"{layer}.output.LayerNorm", 1e-3)
    x = torch.nn.functional.gelu(linear(x, tensors, "cls.predictions.transform.dense"))
    x = norm(x, tensors, "cls.predictions.transform.LayerNorm", 1e-3)
    return x @ tensors[f"{embeddings}.word_embeddings.weight"].T + tensors["cls.predictions.bias"]


def vit_logits(tensors: dict[str, Any], images: Any) -> Any:
    embeddings, pixels = "vit.embeddings", images.permute(0, 3, 1, 2)
    kernel = [tensors[f"{embeddings}.patch_embeddings.projection.{part}"] for part in ("weight", "bias")]
    x = torch.nn.functional.conv2d(pixels, *kernel, stride=4).flatten(2).transpose(1, 2)
    x = torch.cat((tensors[f"{embeddings}.cls_token"].expand(len(x), 1, C), x), 1)
    x = x + tensors[f"{embeddings}.position_embeddings"]
    for i in range(2):
        layer = f"vit.encoder.layer.{i}"
        y = norm(x, tensors, f"{layer}.layernorm_before", 1e-12)
        qkv = [linear(y, tensors, f"{layer}.attention.attention.{name}") for name in ("query", "key", "value")]
        x = x + linear(attend(*qkv, causal=False), tensors, f"{layer}.attention.output.dense")
        y = torch.nn.functional.gelu(
            linear(norm(x, tensors, f"{layer}.layernorm_after", 1e-12), tensors, f"{layer}.intermediate.dense")
        )
        x = x + linear(y, tensors, f"{layer}.output.dense")
    return linear(norm(x, tensors, "vit.layernorm", 1e-12)[:, 0], tensors, "classifier")


CASES: dict[str, Any] = {
    "gpt2": (GPT2, gpt2_tensors, gpt2_logits, GPT),
    "llama": (LLAMA, llama_tensors, llama_logits, Llama),
    "qwen2": (LLAMA | {"model_type": "qwen2"}, lambda: llama_tensors(model_type="qwen2"), llama_logits, Llama),
    "qwen3": (LLAMA | {"model_type": "qwen3"}, lambda: llama_tensors(model_type="qwen3"), llama_logits, Llama),
    "bert": (BERT, bert_tensors, bert_logits, Bert),
    "vit": (VIT, vit_tensors, vit_logits, ViT),
}


@pytest.mark.parametrize("name", CASES)
def test_the_logits_are_those_of_the_published_layout(name: str, tmp_path: Path) -> None:
    config, draw_tensors, formula, kind = CASES[name]
    tensors = draw_tensors()
    model = kind.from_pretrained(directory(tmp_path / "dir", config, tensors), dtype=np.float64)
    assert not model.training
    x = RNG.normal(size=(2, 8, 12, 3)) if name == "vit" else RNG.integers(0, V, (2, 9))
    expected = formula({name: torch.from_numpy(array).double() for name, array in tensors.items()}, torch.from_numpy(x))
    assert np.abs(model(x) - expected.numpy()).max() <= 1e-12


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_read_and_written_back_the_bytes_and_the_config_are_equal(name: str, dtype: str, tmp_path: Path) -> None:
    config, draw_tensors, _, _ = CASES[name]
    config = config | {"torch_dtype": dtype, "bos_token_id": 3}
    first = directory(tmp_path / "first", config, draw_tensors(), dtype)
    model = AutoModel.from_pretrained(first)
    assert model.flat.data.dtype == ("float64" if dtype == "float64" else "float32")
    model.save_pretrained(tmp_path / "second", dtype=dtype)
    assert json.loads((tmp_path / "second" / "config.json").read_text()) == config
    before, after = read_tensors(first), read_tensors(tmp_path / "second")
    prefix = "transformer." if name == "gpt2" else ""
    assert {prefix + own for own in before} == set(after)
    for own in before:
        assert before[own].tobytes() == after[prefix + own].tobytes()
        assert before.dtype(own) == after.dtype(prefix + own)


SCALED: dict[str, Any] = {"rope_factor": 2.0, "rope_original_length": L // 2, "rope_theta": 77.0}
OURS = [
    GPTConfig(V, L, C, H, 2, norm_eps=1e-4),
    GPTConfig(V, L, C, H, 1, mlp_dim=7, activation="gelu", tie_word_embeddings=False),
    LlamaConfig(V, L, C, H, 2, num_kv_heads=1),
    LlamaConfig(V, L, C, H, 1, head_dim=6, attn_bias=True, attn_out_bias=True, mlp_bias=True, mlp_dim=9),
    LlamaConfig(V, L, C, H, 1, window=5),
    LlamaConfig(V, L, C, H, 1, attn_bias=True),
    LlamaConfig(V, L, C, H, 1, attn_bias=True, window=4, tie_word_embeddings=False),
    LlamaConfig(V, L, C, H, 1, head_dim=6, qk_norm=True, norm_eps=1e-3, gate_activation="gelu_tanh"),
    LlamaConfig(V, L, C, H, 1, qk_norm=True, window=3, attn_bias=True, attn_out_bias=True),
    LlamaConfig(V, L, C, H, 1, rope_scaling="linear", rope_factor=3.0),
    LlamaConfig(V, L, C, H, 1, rope_scaling="dynamic", rope_factor=2.0),
    LlamaConfig(
        V, L, C, H, 1, rope_scaling="llama3", rope_low_frequency_factor=2.0, rope_high_frequency_factor=3.0, **SCALED
    ),
    LlamaConfig(
        V, L, C, H, 1, rope_scaling="yarn", rope_beta_fast=9.0, rope_beta_slow=2.0, rope_truncate=False, **SCALED
    ),
    LlamaConfig(V, L, C, H, 1, rope_scaling="yarn", rope_attention_factor=1.5, **SCALED),
    BertConfig(V, L, C, H, 2, num_token_types=3, norm_eps=1e-4),
    BertConfig(V, L, C, H, 1, mlp_dim=7, activation="gelu_tanh", tie_word_embeddings=False),
    BertConfig(V, L, C, H, 1, masked_head=False),
    ViTConfig(8, 12, 3, 5, embed_dim=C, num_heads=H, num_layers=2, norm_eps=1e-6),
    ViTConfig(8, 8, 1, 2, embed_dim=C, num_heads=H, num_layers=1, activation="gelu_tanh", mlp_dim=9),
]


@pytest.mark.parametrize("config", OURS, ids=str)
def test_what_we_write_we_read_with_the_same_logits(config: Any, tmp_path: Path) -> None:
    from compyute_transformer.models.registry import build_model, record_of

    model = build_model(config).eval()
    randomize(model)
    model.save_pretrained(tmp_path, shard_bytes=3000)
    again = AutoModel.from_pretrained(tmp_path)
    inputs, _ = record_of(config).batch(config, np.random.default_rng(1), 2)
    assert np.array_equal(again(*inputs), model(*inputs))
    for field in ("num_kv_heads", "mlp_dim", "head_dim", "rope_original_length"):
        if getattr(config, field, 0) is None:  # which the directory spells out
            config = type(config)(**{**vars(config), field: getattr(again.config, field)})
    assert again.config == config


@pytest.mark.parametrize(
    "config",
    [GPTConfig(V, L, C, H, 1, bias=False), ViTConfig(8, 8, 1, 2, embed_dim=C, num_heads=H, num_layers=1, bias=False)],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_biases_that_a_model_does_not_have_are_written_as_zeros(config: Any, dtype: str, tmp_path: Path) -> None:
    from compyute_transformer.models.registry import build_model, record_of

    model = build_model(config).eval()
    model.save_pretrained(tmp_path, dtype=dtype)
    again = AutoModel.from_pretrained(tmp_path, dtype="float32")
    inputs, _ = record_of(config).batch(config, np.random.default_rng(1), 2)
    assert again.config.bias
    assert np.abs(again(*inputs) - model(*inputs)).max() <= (1e-6 if dtype == "float64" else 1e-2)


def test_dynamic_scaling_past_the_original_length_is_asked_for_by_the_context_length(tmp_path: Path) -> None:
    model = Llama(LlamaConfig(V, L, C, H, 1, rope_scaling="dynamic", rope_factor=2.0, rope_original_length=5)).eval()
    randomize(model)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["max_position_embeddings"] == 5
    assert Llama.from_pretrained(tmp_path).config.context_length == 5
    again = Llama.from_pretrained(tmp_path, context_length=L)
    ids = RNG.integers(0, V, (2, L))
    assert np.array_equal(again(ids), model(ids))


def test_a_tokenizer_goes_along_and_the_tied_head_is_written_once(tmp_path: Path) -> None:
    tokenizer = train_tokenizer("bpe", "a text of a few words, words of a text", 260)
    model = Llama(LlamaConfig(tokenizer.vocab_size, 8, C, H, 1))
    model.save_pretrained(tmp_path, tokenizer=tokenizer)
    assert (
        load_tokenizer(tmp_path / "tokenizer.json").encode("few words").tolist()
        == tokenizer.encode("few words").tolist()
    )
    assert "lm_head.weight" not in read_tensors(tmp_path)
    assert read_tensors(tmp_path).metadata == {"format": "pt"}


def test_options_change_the_configuration(tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(
        directory(tmp_path, LLAMA, llama_tensors()), dropout=0.1, attn_implementation="parallel"
    )
    assert (model.config.dropout, model.config.attn_implementation) == (0.1, "parallel")
    with pytest.raises(ConfigError, match="an option is a field of LlamaConfig, got drop"):
        AutoModel.from_pretrained(tmp_path, drop=0.1)
    with pytest.raises(ConfigError, match=r"got device_map, torch_dtype. Ours for device_map .*to\(device\).*bfloat16"):
        AutoModel.from_pretrained(tmp_path, device_map="auto", torch_dtype="auto")
    for dtype in ("bfloat16", np.int32, "float16", np.longdouble, ">f4", "f4,,"):
        with pytest.raises(ConfigError, match=r"float32 or float64, got dtype .*weights='bfloat16'"):
            AutoModel.from_pretrained(tmp_path, dtype=dtype)
    assert AutoModel.from_pretrained(tmp_path, dtype="auto").dtype == np.float32


def test_names_of_other_versions_mean_the_same(tmp_path: Path) -> None:
    ids = RNG.integers(0, V, (1, 5))
    tensors = gpt2_tensors()
    plain = GPT.from_pretrained(directory(tmp_path / "plain", GPT2, tensors))(ids)
    old = {f"transformer.{name}": array for name, array in tensors.items()} | {"lm_head.weight": tensors["wte.weight"]}
    old |= {
        "transformer.h.0.attn.bias": draw(1, 1, L, L),
        "transformer.h.1.attn.masked_bias": np.float32(-1e4).reshape(()),
    }
    assert np.array_equal(GPT.from_pretrained(directory(tmp_path / "old", GPT2, old))(ids), plain)

    images, tensors = RNG.normal(size=(1, 8, 12, 3)).astype(np.float32), vit_tensors()
    names = {
        "encoder.layer": "layers",
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    }
    new = {}
    for name, array in tensors.items():
        for before, after in names.items():
            name = name.replace(before, after)
        new[name] = array
    plain = ViT.from_pretrained(directory(tmp_path / "vit", VIT, tensors))(images)
    assert np.array_equal(ViT.from_pretrained(directory(tmp_path / "new", VIT, new))(images), plain)

    tensors = bert_tensors()
    plain = Bert.from_pretrained(directory(tmp_path / "bert", BERT, tensors))(ids)
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): array for name, array in tensors.items()}
    old = {name.replace("LayerNorm.bias", "LayerNorm.beta"): array for name, array in old.items()}
    old["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    old["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]
    assert np.array_equal(Bert.from_pretrained(directory(tmp_path / "old bert", BERT, old))(ids), plain)

    version_5 = {**LLAMA, "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}, "dtype": "float32"}
    del version_5["rope_theta"]
    model = Llama.from_pretrained(directory(tmp_path / "llama", version_5, llama_tensors()))
    assert model.config.rope_theta == 500.0
    model.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == version_5


def test_a_bert_has_the_tensors_without_which_transformers_5_begins_with_random_ones(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"context_length": 8, "embed_dim": 4, "num_heads": 2, "num_layers": 1}
    untied = Bert(BertConfig(9, **sizes, tie_word_embeddings=False)).eval()
    randomize(untied)
    untied.save_pretrained(tmp_path / "untied")
    tensors = read_tensors(tmp_path / "untied")
    for name in ("cls.predictions.bias", "cls.predictions.decoder.bias"):
        np.testing.assert_array_equal(tensors[name], untied.head.bias.data)
    again = Bert.from_pretrained(tmp_path / "untied")
    again.head.bias.data += 1
    again.save_pretrained(tmp_path / "again")
    np.testing.assert_array_equal(
        read_tensors(tmp_path / "again")["cls.predictions.decoder.bias"], untied.head.bias.data + 1
    )
    trained = {**tensors, "cls.predictions.decoder.bias": np.arange(9, dtype=np.float32)}
    folder = directory(tmp_path / "trained", json.loads((tmp_path / "untied" / "config.json").read_text()), trained)
    again = Bert.from_pretrained(folder)
    np.testing.assert_array_equal(again.head.bias.data, np.arange(9))  # the one that version 5 adds
    again.save_pretrained(tmp_path / "as it was")
    for name, array in trained.items():
        np.testing.assert_array_equal(read_tensors(tmp_path / "as it was")[name], array)
    Bert(BertConfig(9, **sizes)).save_pretrained(tmp_path / "tied")
    assert "cls.predictions.decoder.bias" not in read_tensors(tmp_path / "tied")
    assert not any("pooler" in name for name in read_tensors(tmp_path / "tied"))
    Bert(BertConfig(9, **sizes, masked_head=False)).save_pretrained(tmp_path / "trunk")
    pooler = [read_tensors(tmp_path / "trunk")[f"pooler.dense.{part}"] for part in ("weight", "bias")]
    assert [(array.shape, float(np.abs(array).max())) for array in pooler] == [((4, 4), 0.0), ((4,), 0.0)]
    Bert.from_pretrained(tmp_path / "trunk").save_pretrained(tmp_path / "same")
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == (
        tmp_path / "trunk" / "model.safetensors"
    ).read_bytes()


def test_what_means_nothing_here_is_written_again(tmp_path: Path) -> None:
    config = BERT | {"architectures": ["BertModel"]}
    tensors = {
        name.removeprefix("bert."): array for name, array in bert_tensors().items() if not name.startswith("cls.")
    }
    tensors |= {"pooler.dense.weight": draw(C, C), "embeddings.position_ids": np.arange(L)[None]}
    first = directory(tmp_path / "first", config, dict(sorted(tensors.items(), key=file_order)))
    model = AutoModel.from_pretrained(first)
    assert model(np.ones((2, 3), int)).shape == (2, 3, C)
    model.save_pretrained(tmp_path / "second")
    assert (tmp_path / "second" / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()
    assert json.loads((tmp_path / "second" / "config.json").read_text()) == config
    model.save_pretrained(tmp_path / "third", dtype="bfloat16")
    assert read_tensors(tmp_path / "third").dtype("embeddings.position_ids") == "I64"
    assert read_tensors(tmp_path / "third").dtype("pooler.dense.weight") == "BF16"


# --- what is refused -------------------------------------------------------------------------------------------------


def test_every_tensor_that_does_not_fit_is_named_at_once(tmp_path: Path) -> None:
    tensors = llama_tensors()
    del tensors["model.norm.weight"], tensors["lm_head.weight"]
    tensors["model.layers.1.mlp.up_proj.weight"] = draw(F, C + 1)
    tensors["model.layers.2.mlp.up_proj.weight"] = draw(F, C)
    with pytest.raises(StateError) as caught:
        Llama.from_pretrained(directory(tmp_path, LLAMA, tensors))
    for fault in (
        "missing: model.norm.weight (12,)",
        "missing: lm_head.weight (11, 12)",
        "other shape: model.layers.1.mlp.up_proj.weight is (20, 13), and config.json asks for (20, 12)",
        "unexpected: model.layers.2.mlp.up_proj.weight (20, 12)",
    ):
        assert fault in str(caught.value)
    assert str(caught.value).count("\n  ") == 4


def test_a_head_that_differs_from_the_embedding_it_is_tied_to_is_refused(tmp_path: Path) -> None:
    config = LLAMA | {"tie_word_embeddings": True}
    with pytest.raises(StateError, match=r"not tied: lm_head\.weight differs from model\.embed_tokens\.weight"):
        Llama.from_pretrained(directory(tmp_path, config, llama_tensors()))


def test_two_spellings_of_one_tensor_are_refused(tmp_path: Path) -> None:
    tensors = gpt2_tensors()
    tensors["transformer.ln_f.bias"] = tensors["ln_f.bias"]
    with pytest.raises(DataError, match=r"ln_f\.bias and .*ln_f\.bias, which are the same tensor"):
        GPT.from_pretrained(directory(tmp_path, GPT2, tensors))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "t5"}, "model_type of gpt2, bert, vit, llama, mistral, qwen2, qwen3, got 't5'"),
        ({}, "model_type of .*, got None"),
        ({"model_type": "llama", "vocab_size": 3}, "must have hidden_size, intermediate_size, num_hidden_layers"),
        (GPT2 | {"scale_attn_by_inverse_layer_idx": True}, "has not: scale_attn_by_inverse_layer_idx True"),
        (GPT2 | {"activation_function": "quick_gelu"}, "activation_function is one of .*, got 'quick_gelu'"),
        (LLAMA | {"partial_rotary_factor": 0.5}, "has not: partial_rotary_factor 0.5"),
        (LLAMA | {"hidden_act": "relu"}, "hidden_act is one of"),
        (LLAMA | {"rope_scaling": {"rope_type": "longrope"}}, "rope_type is default, linear, .*, got 'longrope'"),
        (LLAMA | {"rope_scaling": {"type": "yarn", "factor": 2.0, "mscale": 1.0}}, "mscale"),
        (LLAMA | {"rope_scaling": [1]}, "rope_scaling in config.json is a JSON object"),
        (LLAMA | {"num_key_value_heads": 2}, "num_kv_heads num_heads, got"),
        (
            LLAMA | {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
            "layers with a sliding window between layers without one",
        ),
        (BERT | {"position_embedding_type": "relative_key"}, "has not: position_embedding_type 'relative_key'"),
        (VIT | {"qkv_bias": False}, "has not: qkv_bias False"),
    ],
    ids=str,
)
def test_what_our_models_do_not_have_is_refused_by_name(config: dict[str, Any], words: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=words):
        AutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (GPTConfig(V, L, C, H, 1, window=3, num_kv_heads=1), "cannot express window 3, num_kv_heads 1"),
        (LlamaConfig(V, L, C, H, 1, qk_norm=True, mlp_bias=True), "qwen3 of Transformers cannot express mlp_bias True"),
        (LlamaConfig(V, L, C, H, 1, attn_out_bias=True), "cannot express attn_out_bias True"),
        (LlamaConfig(V, L, C, H, 1, soft_cap=9.0, positions="alibi"), "cannot express soft_cap 9.0, positions 'alibi'"),
        (GPTConfig(V, L, C, H, 1, soft_cap=9.0), "cannot express soft_cap 9.0"),
    ],
    ids=str,
)
def test_what_transformers_cannot_express_is_refused_by_name(config: Any, words: str, tmp_path: Path) -> None:
    from compyute_transformer.models.registry import build_model

    with pytest.raises(ConfigError, match=words):
        build_model(config).save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_model_without_a_family_and_a_class_of_another_are_refused(tmp_path: Path) -> None:
    model = TransformerLM(TransformerLMConfig(V, L, C, H, 1))
    with pytest.raises(ConfigError, match=r"GPT, Llama, Bert and ViT are architectures.*got TransformerLMConfig"):
        model.save_pretrained(tmp_path)
    directory(tmp_path, LLAMA, llama_tensors())
    with pytest.raises(ConfigError, match=r"GPT\.from_pretrained: .* holds a Llama\. Call Llama\.from_pretrained"):
        GPT.from_pretrained(tmp_path)


def test_an_unknown_dtype_leaves_no_folder(tmp_path: Path) -> None:
    model = GPT(GPTConfig(5, context_length=4, embed_dim=8, num_heads=2, num_layers=1))
    with pytest.raises(DataError, match="dtype is one of float64, float32, float16, bfloat16, got 'q8_0'"):
        model.save_pretrained(tmp_path / "model", dtype="q8_0")
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds config\.json; that of .* cannot be read"):
        AutoModel.from_pretrained(tmp_path / "none")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(DataError, match="must hold a JSON object"):
        AutoModel.from_pretrained(tmp_path)


def test_quantized_weights_are_refused(tmp_path: Path) -> None:
    import safetensors.numpy

    tensors = llama_tensors()
    directory(tmp_path, LLAMA, tensors)
    tensors["lm_head.weight"] = np.zeros((V, C), np.int8)
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(StateError, match=r"no floats: lm_head\.weight holds I8"):
        AutoModel.from_pretrained(tmp_path)
