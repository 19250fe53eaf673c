"""Configurations: config.json of Hugging Face Transformers as the configurations of `models`.

What an architecture of theirs can say and ours cannot is refused by name, never left out in silence. Both spellings of
rotary positions are read: `rope_theta` and `rope_scaling`, and `rope_parameters` of version 5.
"""

from collections.abc import Callable, Mapping
from typing import Any

from .._arguments import hint_of
from ..errors import ConfigError
from ..models.bert import BertConfig
from ..models.gpt import GPTConfig
from ..models.llama import LlamaConfig
from ..models.vit import ViTConfig

__all__ = ["Fields", "from_hugging_face"]

Values = Mapping[str, Any]
Fields = dict[str, Any]

ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
MOST = 1e300
WHOLE, NUMBER, FLAG = "a whole number", "a finite number", "true or false"
# What the values that are read are, unless they are null or missing.
KINDS = {
    **dict.fromkeys(("n_inner", "num_labels", "num_channels", "patch_size", "type_vocab_size"), WHOLE),
    **dict.fromkeys(("n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "hidden_size"), WHOLE),
    **dict.fromkeys(("intermediate_size", "num_hidden_layers", "num_attention_heads", "max_window_layers"), WHOLE),
    **dict.fromkeys(("num_key_value_heads", "head_dim", "max_position_embeddings", "sliding_window"), WHOLE),
    "original_max_position_embeddings": WHOLE,
    **dict.fromkeys(("layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps", "rope_theta", "factor"), NUMBER),
    **dict.fromkeys(("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "attention_factor"), NUMBER),
    **dict.fromkeys(("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window", "truncate"), FLAG),
    **dict.fromkeys(("model_type", "activation_function", "hidden_act", "rope_type", "type"), "a string"),
    **dict.fromkeys(("architectures", "layer_types"), "a list of strings"),
    **dict.fromkeys(("rope_parameters", "rope_scaling"), "a JSON object"),
}
LLAMAS = ("llama", "mistral", "qwen2", "qwen3")


def from_hugging_face(values: Values, **options: Any) -> Any:
    """Return our configuration of the values of a config.json. options: fields of ours that are set to other values.

    Raises:
        ConfigError: an architecture, or an option of one, that our models do not have.
    """
    _check_kinds(values)
    name = values.get("model_type")
    readers: dict[str, Callable[[Values], Any]] = {"gpt2": _read_gpt, "bert": _read_bert, "vit": _read_vit}
    readers |= dict.fromkeys(LLAMAS, _read_llama)
    if name not in readers:
        raise ConfigError(
            f"from_pretrained: config.json has a model_type of {', '.join(readers)}, got {name!r}. "
            "Other architectures cannot be read."
        )
    kind, fields = readers[name](values)
    try:
        return kind(**{**fields, **options})
    except TypeError as error:
        raise ConfigError(
            f"from_pretrained: an option is a field of {kind.__name__}, got {', '.join(options)}."
            f"{hint_of(options, fields)}"
        ) from error


def _check_kinds(values: Values) -> None:
    """Raise ConfigError for a value of another kind than is read."""
    for name, value in values.items():
        if value is not None and name in KINDS and not _is_a(KINDS[name], value):
            raise ConfigError(f"from_pretrained: {name} in config.json is {KINDS[name]}, got {value!r}.")
        if name in ("rope_parameters", "rope_scaling"):
            _check_kinds(value or {})


def _is_a(kind: str, value: Any) -> bool:
    if kind == FLAG:
        return isinstance(value, bool)
    if kind == WHOLE:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == NUMBER:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST
    if kind == "a list of strings":
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    return isinstance(value, str if kind == "a string" else dict)


def _need(values: Values, *names: str) -> list[Any]:
    """Return values that have no default. Raises ConfigError with all names that are missing."""
    if missing := [name for name in names if values.get(name) is None]:
        raise ConfigError(f"from_pretrained: config.json must have {', '.join(missing)}. Fetch or copy it again.")
    return [values[name] for name in names]


def _only(values: Values, **allowed: Any) -> None:
    """Raise ConfigError for an option that our model does not have, unless it has this value, or none."""
    wrong = [name for name, value in allowed.items() if values.get(name) not in (None, value)]
    if wrong:
        came = ", ".join(f"{name} {values[name]!r}" for name in wrong)
        raise ConfigError(
            f"from_pretrained: this model has options that our {values.get('model_type')} has not: {came}."
        )


def _activation(values: Values, key: str, default: str, allowed: tuple[str, ...]) -> str:
    name = values.get(key) or default
    ours = ACTIVATIONS.get(name, "")
    if ours not in allowed:
        known = ", ".join(theirs for theirs, word in ACTIVATIONS.items() if word in allowed)
        raise ConfigError(f"from_pretrained: {key} is one of {known}, got {name!r}.")
    return ours


def _read_gpt(values: Values) -> tuple[type, Fields]:
    _only(values, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    V, L, C, N, H = _need(values, "vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
    return GPTConfig, {
        "vocab_size": V,
        "context_length": L,
        "embed_dim": C,
        "num_heads": H,
        "num_layers": N,
        "mlp_dim": values.get("n_inner"),
        "activation": _activation(values, "activation_function", "gelu_new", ("gelu_tanh", "gelu", "relu")),
        "norm_eps": values.get("layer_norm_epsilon", 1e-5),
        "tie_word_embeddings": values.get("tie_word_embeddings", True),
    }


def _read_bert(values: Values) -> tuple[type, Fields]:
    _only(values, position_embedding_type="absolute", is_decoder=False, add_cross_attention=False)
    V, L, C, N, H = _need(
        values, "vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads"
    )
    kinds = values.get("architectures") or []
    return BertConfig, {
        "vocab_size": V,
        "context_length": L,
        "embed_dim": C,
        "num_heads": H,
        "num_layers": N,
        "mlp_dim": values.get("intermediate_size"),
        "num_token_types": values.get("type_vocab_size", 2),
        "activation": _activation(values, "hidden_act", "gelu", ("gelu_tanh", "gelu", "relu")),
        "norm_eps": values.get("layer_norm_eps", 1e-12),
        "masked_head": any(kind in ("BertForMaskedLM", "BertForPreTraining") for kind in kinds),
        "tie_word_embeddings": values.get("tie_word_embeddings", True),
    }


def _read_vit(values: Values) -> tuple[type, Fields]:
    _only(values, qkv_bias=True)
    C, N, H = _need(values, "hidden_size", "num_hidden_layers", "num_attention_heads")
    size = values.get("image_size", 224)
    height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
    labels = values.get("id2label")
    return ViTConfig, {
        "image_height": height,
        "image_width": width,
        "channels": values.get("num_channels", 3),
        "num_classes": len(labels) if isinstance(labels, dict) else values.get("num_labels", 2),
        "patch_size": values.get("patch_size", 16),
        "embed_dim": C,
        "num_heads": H,
        "num_layers": N,
        "mlp_dim": values.get("intermediate_size"),
        "activation": _activation(values, "hidden_act", "gelu", ("gelu_tanh", "gelu", "relu")),
        "norm_eps": values.get("layer_norm_eps", 1e-12),
    }


def _read_llama(values: Values) -> tuple[type, Fields]:
    name = values["model_type"]
    _only(values, partial_rotary_factor=1.0, pretraining_tp=1)
    V, C, F, N, H = _need(
        values, "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"
    )
    (length,) = _need(values, "max_position_embeddings")
    bias = bool(values.get("attention_bias", False))
    return LlamaConfig, {
        "vocab_size": V,
        "context_length": length,
        "embed_dim": C,
        "num_heads": H,
        "num_layers": N,
        "num_kv_heads": values.get("num_key_value_heads") or H,
        "head_dim": values.get("head_dim") or (128 if name == "qwen3" else None),
        "mlp_dim": F,
        "gate_activation": _activation(values, "hidden_act", "silu", ("silu", "gelu", "gelu_tanh")),
        "attn_bias": True if name == "qwen2" else bias,
        "attn_out_bias": False if name == "qwen2" else bias,
        "mlp_bias": bool(values.get("mlp_bias", False)),
        "qk_norm": name == "qwen3",
        "norm_eps": values.get("rms_norm_eps", 1e-6),
        "window": _window(values, N),
        "tie_word_embeddings": bool(values.get("tie_word_embeddings", False)),
        **_rotary(values, length),
    }


def _window(values: Values, num_layers: int) -> int | None:
    """Return the sliding window, which all layers share; None where all see everything."""
    window, kinds = values.get("sliding_window"), values.get("layer_types")
    if values["model_type"] == "llama" or not window or values.get("use_sliding_window") is False:
        return None
    if values["model_type"] != "mistral":
        if values.get("use_sliding_window") is None:
            return None
        if not isinstance(kinds, list):
            first = values.get("max_window_layers", 28)
            kinds = ["sliding_attention" if i >= first else "full_attention" for i in range(num_layers)]
    if not isinstance(kinds, list) or set(kinds) == {"sliding_attention"}:
        return int(window)
    if set(kinds) == {"full_attention"}:
        return None
    raise ConfigError("from_pretrained: layers with a sliding window between layers without one cannot be read.")


def _rotary(values: Values, length: int) -> Fields:
    """Return the fields of rotary positions."""
    given = values.get("rope_parameters") or values.get("rope_scaling") or {}
    name = given.get("rope_type", given.get("type", "default"))
    fields: Fields = {"rope_theta": float(given.get("rope_theta") or values.get("rope_theta") or 10000.0)}
    if name == "default":
        return fields
    if name not in ("linear", "dynamic", "llama3", "yarn"):
        raise ConfigError(f"from_pretrained: rope_type is default, linear, dynamic, llama3 or yarn, got {name!r}.")
    if given.get("mscale") or given.get("mscale_all_dim"):
        raise ConfigError("from_pretrained: mscale and mscale_all_dim of rotary positions cannot be read.")
    keys = {
        "low_freq_factor": "rope_low_frequency_factor",
        "high_freq_factor": "rope_high_frequency_factor",
        "beta_fast": "rope_beta_fast",
        "beta_slow": "rope_beta_slow",
        "truncate": "rope_truncate",
        "attention_factor": "rope_attention_factor",
    }
    fields |= {"rope_scaling": name, "rope_factor": float(given.get("factor", 1.0))}
    original = None if name == "dynamic" else given.get("original_max_position_embeddings")
    fields["rope_original_length"] = original or length  # Transformers takes dynamic scaling's from the configuration
    return fields | {ours: given[theirs] for theirs, ours in keys.items() if given.get(theirs) is not None}
