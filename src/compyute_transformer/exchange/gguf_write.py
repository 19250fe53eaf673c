"""GGUF files, written: metadata, tensors in F32, F16 or Q8_0, and the tokenizer inside.

As in the files of llama.cpp, norms and biases stay F32, and a matrix whose rows are no whole blocks is F16 where
others are Q8_0.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import _io
from ..arrays import Array, to_numpy
from ..data.text.bpe import BytePairTokenizer
from ..errors import ConfigError, DataError
from .configurations_write import to_hugging_face
from .gguf import ADDED, CONTROL, CUTS, LIST, NORMAL, NUMBERS, OUTSIDE, PARTS, TEXT, UNUSED
from .names import family_of
from .quantized import BLOCK, KINDS, quantize_q8_0

__all__ = ["save_gguf"]

ALIGNMENT = 32
CODES = {kind.name: code for code, kind in KINDS.items()}
TYPES = {"float32": "F32", "float16": "F16", "q8_0": "Q8_0"}
FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7}
CODE_OF = {form: code for code, form in NUMBERS.items()}


def save_gguf(
    model: Any,
    path: str | Path,
    *,
    dtype: str = "float16",
    tokenizer: Any = None,
    chat_template: str | None = None,
    special_ids: Mapping[str, int] | None = None,
) -> None:
    """Write a Llama as a GGUF file that llama.cpp reads.

    dtype: "float32", "float16" or "q8_0". tokenizer: byte pairs, if they are to be inside. special_ids: {"eos": 2}.

    Raises:
        ConfigError: another model, or options that the format does not have. DataError: an unknown dtype, a tokenizer
        that the format does not have, or a file that cannot be written.
    """
    if dtype not in TYPES:
        raise DataError(f"save_gguf: dtype is one of {', '.join(TYPES)}, got {dtype!r}.")
    metadata = _metadata(model.config)
    metadata["general.file_type"] = FILE_TYPES[TYPES[dtype]]
    if tokenizer is not None:
        metadata |= _tokenizer(tokenizer)
    for name, token in (special_ids or {}).items():
        metadata[f"tokenizer.ggml.{name}_token_id"] = token
    if chat_template is not None:
        metadata["tokenizer.chat_template"] = chat_template
    arrays = _tensors(model, permuted=metadata["general.architecture"] == "llama")
    kinds = {name: _kind(array, TYPES[dtype]) for name, array in arrays.items()}
    head, sizes = _head(metadata, arrays, kinds)
    try:
        _io.replace_file(Path(path), lambda hidden: _write(hidden, head, arrays, kinds, sizes))
    except OSError as error:
        raise DataError(f"save_gguf: {path} must be a file that can be written; it cannot: {error}.") from error


def _metadata(config: Any) -> dict[str, Any]:
    """Return what the file says of the configuration."""
    values = to_hugging_face(config)
    name = values["model_type"]
    if name not in ("llama", "qwen2", "qwen3"):
        raise ConfigError(
            f"save_gguf: a GGUF file holds a Llama, Qwen 2 or Qwen 3 here, got {type(config).__name__}. "
            "Train with --preset llama, or write a directory: compyute convert IN DIR."
        )
    faults = {
        "rope_scaling": config.rope_scaling != "none",
        "window": config.window is not None,
        "gate_activation": config.gate_activation != "silu",
        "mlp_bias": config.mlp_bias,
        "attn_out_bias": config.attn_out_bias,
    }
    if wrong := [f"{field} {getattr(config, field)!r}" for field, present in faults.items() if present]:
        raise ConfigError(
            f"save_gguf: a GGUF file cannot express {', '.join(wrong)} here. "
            "Write a directory: compyute convert IN DIR."
        )
    entries = {
        "context_length": values["max_position_embeddings"],
        "embedding_length": values["hidden_size"],
        "feed_forward_length": values["intermediate_size"],
        "block_count": values["num_hidden_layers"],
        "attention.head_count": values["num_attention_heads"],
        "attention.head_count_kv": values["num_key_value_heads"],
        "attention.key_length": config.head_width,
        "attention.value_length": config.head_width,
        "attention.layer_norm_rms_epsilon": float(values["rms_norm_eps"]),
        "rope.freq_base": float(values["rope_theta"]),
        "rope.dimension_count": config.head_width,
        "vocab_size": values["vocab_size"],
    }
    return {"general.architecture": name} | {f"{name}.{key}": value for key, value in entries.items()}


def _tensors(model: Any, permuted: bool) -> dict[str, Array]:
    """Return the tensors by their names in the file. permuted: the columns of a pair are neighbors."""
    family = family_of(model.config)
    assert family is not None
    parameters = {name: to_numpy(parameter.data) for name, parameter in model.named_parameters()}
    heads = {"attn_q": model.config.num_heads, "attn_k": model.config.num_kv_heads or model.config.num_heads}
    arrays: dict[str, Array] = {}
    for piece in family.pieces(model.config):
        for theirs, array in piece.write(parameters[piece.ours]).items():
            name = _name(theirs)
            part = name.split(".")[-2]
            arrays[name] = side_by_side(array, heads[part]) if permuted and part in heads else array
    return arrays


def side_by_side(rows: Array, num_heads: int) -> Array:
    """Return rows of queries or keys in the order in which the two of a pair are neighbors; see `gguf.in_halves`."""
    _, *columns = rows.shape
    return rows.reshape(num_heads, 2, -1, *columns).swapaxes(1, 2).reshape(rows.shape)


def _name(theirs: str) -> str:
    """Return what a tensor of a Hugging Face directory is called in the file."""
    stem, _, kind = theirs.rpartition(".")
    for name, outside in OUTSIDE.items():
        if stem == outside:
            return f"{name}.{kind}"
    block, _, part = stem.removeprefix("model.layers.").partition(".")
    parts = {theirs: name for name, theirs in PARTS.items()}
    return f"blk.{block}.{parts[part]}.{kind}"


def _kind(array: Array, kind: str) -> str:
    if array.ndim == 1:
        return "F32"
    return "F16" if kind == "Q8_0" and array.shape[-1] % BLOCK else kind


def _head(
    metadata: Mapping[str, Any], arrays: Mapping[str, Array], kinds: Mapping[str, str]
) -> tuple[bytes, dict[str, int]]:
    """Return all that lies before the data, and the bytes of each tensor with its padding."""
    head = [b"GGUF", struct.pack("<IQQ", 3, len(arrays), len(metadata))]
    head += [_text(name) + _value(value) for name, value in metadata.items()]
    offset, sizes = 0, {}
    for name, array in arrays.items():
        code = CODES[kinds[name]]
        head.append(_text(name) + struct.pack(f"<I{array.ndim}Q", array.ndim, *array.shape[::-1]))
        head.append(struct.pack("<IQ", code, offset))
        sizes[name] = _padded(array.size // KINDS[code].block * KINDS[code].size)
        offset += sizes[name]
    whole = b"".join(head)
    return whole.ljust(_padded(len(whole)), b"\0"), sizes


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _write(
    path: Path, head: bytes, arrays: Mapping[str, Array], kinds: Mapping[str, str], sizes: Mapping[str, int]
) -> None:
    with open(path, "wb") as file:
        file.write(head)
        for name, array in arrays.items():
            if kinds[name] == "Q8_0":
                data = quantize_q8_0(array)
            else:
                data = np.asarray(array, "<f2" if kinds[name] == "F16" else "<f4", order="C").tobytes()
            file.write(data.ljust(sizes[name], b"\0"))


def _text(text: str) -> bytes:
    data = text.encode("utf-8", errors="surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _value(value: Any, whole: str = "I") -> bytes:
    """Return a value of metadata, its type before it. llama.cpp wants whole numbers unsigned, and signed in lists."""
    if isinstance(value, str):
        return struct.pack("<I", TEXT) + _text(value)
    if isinstance(value, list):
        items = [_value(item, "i") for item in value]
        kind = items[0][:4] if items else struct.pack("<I", TEXT)
        return struct.pack("<I", LIST) + kind + struct.pack("<Q", len(items)) + b"".join(item[4:] for item in items)
    form = "?" if isinstance(value, bool) else "f" if isinstance(value, float) else whole
    return struct.pack(f"<I{form}", CODE_OF[form], value)


# --- the tokenizer ---------------------------------------------------------------------------------------------------


def _tokenizer(tokenizer: Any) -> dict[str, Any]:
    """Return the metadata of a tokenizer. Raises DataError for one that cuts a text by a rule that is not known."""
    state = json.loads(tokenizer._tokenizer.to_str()) if isinstance(tokenizer, BytePairTokenizer) else {}
    rule = _rule(state)
    if rule is None:
        raise DataError(
            f"save_gguf: a tokenizer in a GGUF file has the byte pairs of the kinds {', '.join(CUTS)}, got another. "
            "Train with --tokenizer bpe, write a directory (compyute convert IN DIR), or leave it out of save_gguf and "
            "keep tokenizer.json beside the file."
        )
    special = {token["content"]: token["special"] for token in state["added_tokens"]}
    by_id = {i: token for token, i in tokenizer._tokenizer.get_vocab(with_added_tokens=True).items()}
    tokens = [by_id.get(i, f"[PAD{i}]") for i in range(tokenizer.vocab_size)]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in state["model"]["merges"]]
    kinds = {True: CONTROL, False: ADDED}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": rule,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [
            UNUSED if i not in by_id else kinds[special[token]] if token in special else NORMAL
            for i, token in enumerate(tokens)
        ],
        "tokenizer.ggml.add_bos_token": False,
    }


def _rule(state: Mapping[str, Any]) -> str | None:
    """Return the name of the rule by which a tokenizer cuts a text; None for another one."""
    if state.get("normalizer") or (state.get("model") or {}).get("type") != "BPE" or state["model"].get("unk_token"):
        return None
    cut = state.get("pre_tokenizer") or {}
    digits = False
    if cut.get("type") == "Sequence" and len(cut["pretokenizers"]) == 2:
        first, cut = cut["pretokenizers"]
        if first.get("type") != "Digits" or not first["individual_digits"]:
            return None
        digits = True
    if cut.get("type") != "ByteLevel" or not cut["use_regex"] or cut["add_prefix_space"]:
        return None
    return next(name for name, alone in CUTS.items() if alone == digits)
