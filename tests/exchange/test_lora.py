"""LoRA on whole models: which matrices it changes, merging, the files of PEFT, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compyute_transformer.errors import ConfigError, DataError, StateError
from compyute_transformer.exchange import (
    AutoModel,
    Pretrained,
    add_lora,
    load_adapter,
    merge_lora,
    read_tensors,
    save_adapter,
    write_tensors,
)
from compyute_transformer.exchange.lora import CONFIG, WEIGHTS
from compyute_transformer.generation import generate_ids
from compyute_transformer.models import (
    GPT,
    Bert,
    BertConfig,
    GPTConfig,
    Llama,
    LlamaConfig,
    TransformerLM,
    TransformerLMConfig,
)
from compyute_transformer.verify.function import randomize

SIZES: dict[str, Any] = {"vocab_size": 11, "context_length": 16, "embed_dim": 12, "num_heads": 3, "num_layers": 2}
IDS = np.arange(10).reshape(2, 5)


def llama() -> Llama:
    model = Llama(LlamaConfig(**SIZES, num_kv_heads=1, mlp_dim=20), seed=0).to(dtype=np.float64)
    randomize(model)
    return model


def changed(model: Any, targets: Any = "all-linear", **options: Any) -> Any:
    """Return a model with LoRA whose factors are drawn, so that it computes something else."""
    add_lora(model, 2, 3.0, targets, **options)
    for number, (name, parameter) in enumerate(model.named_parameters()):
        if ".lora" in name:
            parameter.data[...] = np.random.default_rng(number).normal(size=parameter.shape)
    return model


def trained(model: Any) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_targets_name_matrices_as_in_transformers() -> None:
    model = add_lora(llama(), 2, targets=["q_proj", "mlp.down_proj"], blocks=[1])
    assert trained(model) == [
        *("blocks.1.attention.lora_in.0.a", "blocks.1.attention.lora_in.0.b"),
        *("blocks.1.feed_forward.down.lora.a", "blocks.1.feed_forward.down.lora.b"),
    ]
    assert model.blocks[1].attention.rows == ((0, 12),)
    assert model.blocks[1].attention.lora_in[0].scale == 2.0  # alpha is twice the rank
    gpt = add_lora(GPT(GPTConfig(**SIZES)), 2, targets=["c_attn"])
    assert gpt.blocks[0].attention.rows == ((0, 36),)
    assert gpt.blocks[0].attention.lora_out is None
    everything = add_lora(Bert(BertConfig(**SIZES)), 2)
    assert len(trained(everything)) == 2 * 2 * 6


def test_the_gradients_are_those_of_the_merged_weights() -> None:
    model, dlogits = changed(llama()), np.random.default_rng(1).normal(size=(2, 5, 11))
    logits = model(IDS)
    model.backward(dlogits)
    plain = llama()  # the same weights, with the change by hand
    delta: dict[str, Any] = {}
    for block, merged in zip(model.blocks, plain.blocks, strict=True):
        for (start, stop), lora in zip(block.attention.rows, block.attention.lora_in, strict=True):
            merged.attention.in_weight.data[start:stop] += 1.5 * lora.b.data @ lora.a.data
        merged.attention.out_weight.data += 1.5 * block.attention.lora_out.b.data @ block.attention.lora_out.a.data
        for name in ("gate", "up", "down"):
            lora = getattr(block.feed_forward, name).lora
            getattr(merged.feed_forward, name).weight.data += 1.5 * lora.b.data @ lora.a.data
            delta[name] = lora
    assert np.allclose(plain(IDS), logits, rtol=0, atol=1e-12)
    plain.backward(dlogits)
    for block, merged in zip(model.blocks, plain.blocks, strict=True):
        lora, dweight = block.feed_forward.down.lora, merged.feed_forward.down.weight.grad
        assert np.allclose(lora.a.grad, 1.5 * lora.b.data.T @ dweight, rtol=0, atol=1e-12)
        assert np.allclose(lora.b.grad, 1.5 * dweight @ lora.a.data.T, rtol=0, atol=1e-12)
        (start, stop), lora = block.attention.rows[2], block.attention.lora_in[2]
        dweight = merged.attention.in_weight.grad[start:stop]
        assert np.allclose(lora.a.grad, 1.5 * lora.b.data.T @ dweight, rtol=0, atol=1e-12)
    assert all(p.grad is None for name, p in model.named_parameters() if ".lora" not in name)


def test_merged_generates_the_same_as_with_a_cache() -> None:
    model = changed(llama()).eval()
    logits = model(IDS)
    ids = generate_ids(model, IDS, max_new_tokens=8, temperature=0.0)
    merge_lora(model)
    assert not any(".lora" in name for name, _ in model.named_parameters())
    assert np.allclose(model(IDS), logits, rtol=0, atol=1e-12)
    assert np.array_equal(generate_ids(model, IDS, max_new_tokens=8, temperature=0.0), ids)


@pytest.mark.parametrize("kind", [Llama, GPT])
def test_an_adapter_is_written_and_read_back(kind: Any, tmp_path: Path) -> None:
    config: Any = LlamaConfig(**SIZES) if kind is Llama else GPTConfig(**SIZES, activation="gelu_tanh")
    model = kind(config, seed=1).eval()
    model.save_pretrained(tmp_path / "base")
    targets = ["v_proj", "o_proj"] if kind is Llama else ["attn.c_proj", "c_attn"]
    logits = changed(model, targets)(IDS)
    save_adapter(model, tmp_path / "adapter", base=str(tmp_path / "base"))
    first = next(iter(read_tensors(tmp_path / "adapter" / WEIGHTS)))
    assert first.startswith(
        "base_model.model.model.layers.0." if kind is Llama else "base_model.model.transformer.h.0."
    )
    values = json.loads((tmp_path / "adapter" / CONFIG).read_text())
    assert (values["r"], values["lora_alpha"], values["fan_in_fan_out"]) == (2, 3.0, kind is GPT)
    again = load_adapter(AutoModel.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    assert np.array_equal(again(IDS), logits)
    assert np.allclose(Pretrained(tmp_path / "adapter").model(IDS), logits, rtol=0, atol=1e-5)


def test_what_does_not_fit_is_refused_at_once(tmp_path: Path) -> None:
    save_adapter(changed(llama(), ["up_proj"]), tmp_path)
    tensors = dict(read_tensors(tmp_path / WEIGHTS))
    names = list(tensors)
    tensors["base_model.model.model.layers.9.mlp.up_proj.lora_A.weight"] = tensors.pop(names[0])
    tensors[names[1]] = tensors[names[1]][:, :1]
    write_tensors(tmp_path, tensors, whole=WEIGHTS)
    with pytest.raises(StateError, match=r"(?s)no matrix.*layers\.9.*|missing: lora_A.*other shape: .*lora_B"):
        load_adapter(llama(), tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "IA3"}, "of the type LORA, got 'IA3'"),
        ({"use_dora": True}, "LoRA alone is supported, got use_dora True"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save \['lm_head'\]"),
        ({"r": 0}, "r is a whole number"),
        ({"lora_alpha": "x"}, "lora_alpha is a number"),
        ({"lora_alpha": 10**400}, "lora_alpha is a number"),
    ],
)
def test_options_of_peft_that_change_the_function_are_refused(values: Any, message: str, tmp_path: Path) -> None:
    save_adapter(changed(llama(), ["up_proj"]), tmp_path)
    known = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**known, **values}))
    with pytest.raises((ConfigError, DataError), match=message):
        load_adapter(llama(), tmp_path)


def test_rank_stabilized_adapters_have_another_scale(tmp_path: Path) -> None:
    save_adapter(changed(llama(), ["up_proj"]), tmp_path)
    known = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**known, "use_rslora": True}))
    model = load_adapter(llama(), tmp_path)
    assert model.blocks[0].feed_forward.up.lora.scale == pytest.approx(3.0 / 2**0.5)


def test_wrong_targets_a_second_lora_and_other_models_are_refused() -> None:
    with pytest.raises(ConfigError, match="which are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"):
        add_lora(llama(), 2, targets=["query"])
    model = add_lora(llama(), 2)
    with pytest.raises(ConfigError, match="has LoRA already"):
        add_lora(model, 2)
    with pytest.raises(ConfigError, match="Transformers, which has no TransformerLM"):
        add_lora(TransformerLM(TransformerLMConfig(**SIZES)), 2)
    with pytest.raises(ConfigError, match="save_adapter: the model has no LoRA"):
        save_adapter(llama(), "nowhere")
