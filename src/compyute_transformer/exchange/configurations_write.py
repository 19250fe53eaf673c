"""Configurations, written: those of `models` as config.json of Hugging Face Transformers.

What an architecture of theirs cannot express is refused by name.
"""

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from ..models.bert import BertConfig
from ..models.gpt import GPTConfig
from ..models.llama import LlamaConfig
from ..models.vit import ViTConfig
from .configurations import Fields

__all__ = ["to_hugging_face"]

# Theirs are ids of the published vocabularies, at which a text would end.
NO_SPECIAL_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def to_hugging_face(config: Any) -> Fields:
    """Return the values of config.json for a configuration of ours.

    Raises:
        ConfigError: no architecture of Transformers has these options together.
    """
    if isinstance(config, GPTConfig):
        return _write_gpt(config)
    if isinstance(config, BertConfig):
        return _write_bert(config)
    if isinstance(config, ViTConfig):
        return _write_vit(config)
    if isinstance(config, LlamaConfig):
        return _write_llama(config)
    raise ConfigError(
        "save_pretrained: GPT, Llama, Bert and ViT are architectures of Transformers too, got "
        f"{type(config).__name__}. Save the model with model.save(path)."
    )


def _refuse(config: Any, theirs: str, faults: Mapping[str, bool]) -> None:
    if wrong := [name for name, present in faults.items() if present]:
        came = ", ".join(f"{name} {getattr(config, name)!r}" for name in wrong)
        raise ConfigError(
            f"save_pretrained: {theirs} of Transformers cannot express {came}. "
            "Train a model without, or save this one with model.save(path)."
        )


def _theirs(activation: str) -> str:
    return {"gelu_tanh": "gelu_pytorch_tanh"}.get(activation, activation)


def _write_gpt(config: GPTConfig) -> Fields:
    grouped = (config.num_kv_heads or config.num_heads) != config.num_heads
    faults = {"window": config.window is not None, "num_kv_heads": grouped, "soft_cap": config.soft_cap is not None}
    _refuse(config, "GPT-2", faults)
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_embd": config.embed_dim,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.mlp_dim,
        "activation_function": "gelu_new" if config.activation == "gelu_tanh" else config.activation,
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        **NO_SPECIAL_TOKENS,
    }


def _write_bert(config: BertConfig) -> Fields:
    return {
        "model_type": "bert",
        "architectures": ["BertForMaskedLM" if config.masked_head else "BertModel"],
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_dim or 4 * config.embed_dim,
        "type_vocab_size": config.num_token_types,
        "hidden_act": "gelu_new" if config.activation == "gelu_tanh" else config.activation,
        "layer_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "pad_token_id": 0,
    }


def _write_vit(config: ViTConfig) -> Fields:
    square = config.image_height == config.image_width
    names = {str(i): f"LABEL_{i}" for i in range(config.num_classes)}
    return {
        "model_type": "vit",
        "architectures": ["ViTForImageClassification"],
        "image_size": config.image_height if square else [config.image_height, config.image_width],
        "num_channels": config.channels,
        "patch_size": config.patch_size,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_dim or 4 * config.embed_dim,
        "hidden_act": _theirs(config.activation),
        "layer_norm_eps": config.norm_eps,
        "qkv_bias": True,
        "id2label": names,
        "label2id": {label: int(i) for i, label in names.items()},
    }


def _write_llama(config: LlamaConfig) -> Fields:
    name = "qwen3" if config.qk_norm else "qwen2" if config.attn_bias and not config.attn_out_bias else "llama"
    if name == "llama" and config.window is not None:
        name = "mistral"
    faults = {
        "attn_out_bias": config.attn_out_bias and (name == "mistral" or not config.attn_bias),
        "attn_bias": config.attn_bias and name == "qwen3" and not config.attn_out_bias,
        "mlp_bias": config.mlp_bias and name != "llama",
        "soft_cap": config.soft_cap is not None,
        "positions": config.positions != "rotary",
    }
    _refuse(config, name, faults)
    values: Fields = {
        "model_type": name,
        "architectures": [f"{ {'llama': 'Llama', 'mistral': 'Mistral'}.get(name, name.capitalize()) }ForCausalLM"],
        "vocab_size": config.vocab_size,
        "max_position_embeddings": _length(config),
        "hidden_size": config.embed_dim,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads or config.num_heads,
        "head_dim": config.head_width,
        "hidden_act": _theirs(config.gate_activation),
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "rope_theta": config.rope_theta,
        "rope_scaling": _rope_scaling(config),
        **NO_SPECIAL_TOKENS,
    }
    if name in ("llama", "qwen3"):
        values["attention_bias"] = config.attn_bias
    if name == "llama":
        values["mlp_bias"] = config.mlp_bias
    if name == "mistral":
        values["sliding_window"] = config.window
    if name in ("qwen2", "qwen3") and config.window is not None:
        values |= {"use_sliding_window": True, "sliding_window": config.window, "max_window_layers": 0}
    return values


def _length(config: LlamaConfig) -> int:
    """Return their context length: with dynamic scaling the original one, past which texts may be longer."""
    scaling = config.rotary_scaling
    return scaling.original_length if scaling is not None and scaling.kind == "dynamic" else config.context_length


def _rope_scaling(config: LlamaConfig) -> Fields | None:
    scaling = config.rotary_scaling
    if scaling is None:
        return None
    values: Fields = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        values |= {"low_freq_factor": scaling.low_frequency_factor, "high_freq_factor": scaling.high_frequency_factor}
    if scaling.kind == "yarn":
        values |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow, "truncate": scaling.truncate}
        values |= {} if scaling.attention_factor is None else {"attention_factor": scaling.attention_factor}
    if scaling.kind in ("llama3", "yarn"):
        values["original_max_position_embeddings"] = scaling.original_length
    return values
