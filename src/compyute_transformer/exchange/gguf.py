"""GGUF: the one-file format of llama.cpp, read: metadata, quantized tensors, and the tokenizer inside.

    magic "GGUF" · version · number of tensors · number of metadata · metadata (name, type, value) · tensors (name,
    axes, lengths, type, offset) · padding to the alignment · data

A quantized tensor is blocks of numbers; see `quantized`.

Everything comes from a stranger, so each length is checked against what is left of the file before it is used. The
converter of llama.cpp reorders the rows of a Llama's queries and keys, because it turns neighboring columns; that is
undone here.

Source: the description of the format in ggml.
"""

import struct
import sys
from array import array
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..arrays import Array
from ..data.text.bpe import BytePairTokenizer
from ..errors import ConfigError, DataError
from ..ops.quantized import QuantizedWeight
from .quantized import KINDS, Kind
from .tensors import COPY_ON_WRITE, mapped_or_copied

if TYPE_CHECKING:
    import tokenizers

__all__ = ["Gguf", "read_gguf", "tokenizer_of"]

MOST_AXES, MOST_ITEMS = 4, 1 << 24
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, LIST = 8, 9
BLOCKS_AT_ONCE = 1 << 15  # that are decoded together
NORMAL, CONTROL, ADDED, UNUSED = 1, 3, 4, 5  # types of tokens


class Entry(NamedTuple):
    """A tensor. start: the byte of the file at which it begins."""

    kind: Kind
    shape: tuple[int, ...]
    start: int


class Gguf(Mapping[str, Array]):
    """The tensors of a file by name, as float32, each decoded when asked for. metadata: the values beside them."""

    def __init__(self, data: Array, metadata: dict[str, Any], entries: dict[str, Entry]) -> None:
        self._data, self.metadata, self._entries = data, metadata, entries

    def __getitem__(self, name: str) -> Array:
        kind, shape, _ = self._entries[name]
        blocks = self._blocks(name)
        if kind.name == "F32":
            return blocks.view("<f4").reshape(shape)
        decoded = np.empty((len(blocks), kind.block), np.float32)
        with np.errstate(invalid="ignore", over="ignore"):  # a damaged scale: infinity times zero is NaN
            for start in range(0, len(blocks), BLOCKS_AT_ONCE):
                decoded[start : start + BLOCKS_AT_ONCE] = kind.decode(np.array(blocks[start : start + BLOCKS_AT_ONCE]))
        return decoded.reshape(shape)

    def _blocks(self, name: str) -> Array:
        """Return the blocks of a tensor, (N, bytes of a block), mapped."""
        kind, shape, start = self._entries[name]
        count = prod(shape) // kind.block
        return self._data[start : start + count * kind.size].reshape(count, kind.size)

    def quantized(self, name: str, weights: str) -> QuantizedWeight | None:
        """Return a tensor that the file holds in these bits already, not decoded; None for one that it does not."""
        kind, shape, _ = self._entries[name]
        if len(shape) != 2 or (kind.name, weights) not in (("Q8_0", "int8"), ("BF16", "bfloat16")):
            return None
        blocks = self._blocks(name)
        if weights == "bfloat16":
            return QuantizedWeight(mapped_or_copied(blocks.view("<u2").reshape(shape), np.uint16))
        scales = np.array(blocks[:, :2]).view("<f2").astype(np.float32).reshape(shape[0], -1)
        if not np.isfinite(scales).all():
            raise DataError(f"read_gguf: {name} has a scale that is not finite. Fetch or copy the file again.")
        return QuantizedWeight(np.array(blocks[:, 2:]).view(np.int8).reshape(shape), scales)

    def __contains__(self, name: object) -> bool:
        return name in self._entries  # a Mapping would decode the tensor for it

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, without decoding it."""
        return self._entries[name].shape

    def kind(self, name: str) -> str:
        """Return the type of a tensor: "Q4_1", …"""
        return self._entries[name].kind.name


class Cursor:
    """Reads one value after the other from the beginning of a file. Raises ValueError at its end."""

    def __init__(self, data: Array) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        if not 0 <= count <= self.data.size - self.at:
            raise ValueError(f"it ends at byte {self.data.size:,}, within what byte {self.at:,} begins")
        self.at += count
        return self.data[self.at - count : self.at].tobytes()

    def number(self, code: str) -> Any:
        """Return the next number; the code is that of `struct`."""
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self) -> str:
        """Return the next text."""
        return self.take(self.number("Q")).decode("utf-8", errors="surrogateescape")

    def value(self, kind: int) -> Any:
        """Return the next value of metadata; numbers of a list as an `array`, in which they take no more memory."""
        if kind == TEXT:
            return self.text()
        if kind == LIST:
            inner, count = self.number("I"), self.number("Q")
            if count > min(MOST_ITEMS, self.data.size - self.at):
                raise ValueError(f"a list has {count:,} items, more than are left of the file")
            if inner == TEXT:
                return [self.text() for _ in range(count)]
            if inner not in NUMBERS:
                raise ValueError(f"a list has items of the type {inner}, which are neither texts nor numbers")
            numbers = array(NUMBERS[inner].replace("?", "B"), self.take(count * struct.calcsize("<" + NUMBERS[inner])))
            if sys.byteorder == "big":
                numbers.byteswap()
            return numbers
        if kind not in NUMBERS:
            raise ValueError(f"a value has the type {kind}, which the format does not have")
        return self.number(NUMBERS[kind])


def read_gguf(path: str | Path) -> Gguf:
    """Return metadata and tensors of a GGUF file; the file is mapped, not copied.

    Raises:
        DataError: the file is missing, breaks the format, or has tensors of a type that is not read.
    """
    try:
        data: Array = np.memmap(path, np.uint8, COPY_ON_WRITE)
        return Gguf(data, *_parsed(Cursor(data)))
    except (OSError, ValueError) as error:
        raise DataError(
            f"read_gguf: {path} must be a GGUF file; it cannot be read: {str(error)[:300]}. Fetch or copy it again."
        ) from error


def _parsed(cursor: Cursor) -> tuple[dict[str, Any], dict[str, Entry]]:
    if cursor.take(4) != b"GGUF" or (version := cursor.number("I")) not in (2, 3):
        raise ValueError("it does not begin with GGUF and version 2 or 3")
    num_tensors, num_values = cursor.number("Q"), cursor.number("Q")
    if max(num_tensors, num_values) > cursor.data.size:
        raise ValueError(f"version {version} names {num_tensors:,} tensors and {num_values:,} values")
    metadata: dict[str, Any] = {}
    for _ in range(num_values):
        name = cursor.text()
        if name in metadata:
            raise ValueError(f"the value {name[:80]!r} is repeated")
        metadata[name] = cursor.value(cursor.number("I"))
    found = [_tensor(cursor) for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= 1 << 20:
        raise ValueError(f"general.alignment is {alignment!r}")
    begin = -(-cursor.at // alignment) * alignment
    entries: dict[str, Entry] = {}
    end = begin
    for name, kind, shape, offset in sorted(found, key=lambda each: each[3]):
        start = begin + offset
        if name in entries or start < end:
            raise ValueError(f"the tensor {name[:80]!r} is repeated, or overlaps another one")
        end = start + prod(shape) // kind.block * kind.size
        if end > cursor.data.size:
            raise ValueError(f"the tensor {name[:80]!r} ends past the end of the file")
        entries[name] = Entry(kind, shape, start)
    return metadata, entries


def _tensor(cursor: Cursor) -> tuple[str, Kind, tuple[int, ...], int]:
    """Return name, type, shape and offset of the next tensor. The file has the last axis first."""
    name, axes = cursor.text(), cursor.number("I")
    if not 1 <= axes <= MOST_AXES:
        raise ValueError(f"the tensor {name[:80]!r} has {axes} axes")
    shape = tuple(cursor.number("Q") for _ in range(axes))[::-1]
    code, offset = cursor.number("I"), cursor.number("Q")
    if code not in KINDS:
        known = ", ".join(kind.name for kind in KINDS.values())
        raise ValueError(f"the tensor {name[:80]!r} has the type {code}; those that are read are {known}")
    kind = KINDS[code]
    if shape[-1] % kind.block or not 1 <= prod(shape) < 1 << 48:
        raise ValueError(f"the tensor {name[:80]!r} of {kind.name} has the shape {shape}")
    return name, kind, shape, offset


# --- a Llama ---------------------------------------------------------------------------------------------------------

PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def hugging_face_name(name: str) -> str:
    """Return what a tensor is called in a Hugging Face directory; the name itself where it has none there."""
    stem, _, kind = name.rpartition(".")
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.{kind}"
    block, _, part = stem.removeprefix("blk.").partition(".")
    return f"model.layers.{block}.{PARTS[part]}.{kind}" if block.isdigit() and part in PARTS else name


def hugging_face_values(file: Gguf) -> dict[str, Any]:
    """Return the values of config.json that the metadata say.

    Raises:
        ConfigError: an architecture or an option that our models do not have.
    """
    metadata = file.metadata
    name = metadata.get("general.architecture")
    if name not in ("llama", "qwen2", "qwen3"):
        raise ConfigError(f"from_pretrained: a GGUF file holds a llama, qwen2 or qwen3, got {name!r}.")
    if "rope_freqs.weight" in file or metadata.get(f"{name}.rope.scaling.type", "none") != "none":
        raise ConfigError("from_pretrained: scaled rotary positions in a GGUF file cannot be read.")

    def of(key: str) -> Any:
        return metadata.get(f"{name}.{key}")

    values = {
        "model_type": name,
        "architectures": [f"{name.capitalize()}ForCausalLM"],
        "max_position_embeddings": of("context_length"),
        "hidden_size": of("embedding_length"),
        "intermediate_size": of("feed_forward_length"),
        "num_hidden_layers": of("block_count"),
        "num_attention_heads": of("attention.head_count"),
        "num_key_value_heads": of("attention.head_count_kv"),
        "head_dim": of("attention.key_length"),
        "rope_theta": of("rope.freq_base"),
        "rms_norm_eps": of("attention.layer_norm_rms_epsilon"),
        "attention_bias": "blk.0.attn_q.bias" in file,
        "tie_word_embeddings": "output.weight" not in file,
        "vocab_size": file.shape("token_embd.weight")[0] if "token_embd.weight" in file else None,
    }
    return {key: _shortest(value) for key, value in values.items() if value is not None}


def _shortest(value: Any) -> Any:
    """Return a number as it was written before it was rounded to float32: 1e-05, and not 9.999999747378752e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def in_halves(rows: Array, num_heads: int) -> Array:
    """Return rows of queries or keys in the order in which pairs are halves: llama.cpp puts them side by side."""
    _, *columns = rows.shape
    return rows.reshape(num_heads, -1, 2, *columns).swapaxes(1, 2).reshape(rows.shape)


class HuggingFaceView(Mapping[str, Array]):
    """The tensors of a GGUF file by the names, and in the layout, of a Hugging Face directory."""

    def __init__(self, file: Gguf, values: Mapping[str, Any]) -> None:
        self._file, self._names = file, {hugging_face_name(name): name for name in file}
        heads = (
            values.get("num_attention_heads"),
            values.get("num_key_value_heads") or values.get("num_attention_heads"),
        )
        self._heads = dict(zip(("q_proj", "k_proj"), heads, strict=True)) if values["model_type"] == "llama" else {}

    def __getitem__(self, name: str) -> Array:
        array = self._file[self._names[name]]
        heads = self._heads.get(name.split(".")[-2])
        return array if heads is None else in_halves(array, heads)

    def quantized(self, name: str, weights: str) -> QuantizedWeight | None:
        """Return a tensor that the file holds in these bits already; None for one that it does not."""
        found = self._file.quantized(self._names[name], weights)
        heads = self._heads.get(name.split(".")[-2])
        if found is None or heads is None:
            return found
        scales = None if found.scales is None else in_halves(found.scales, heads)
        return QuantizedWeight(in_halves(found.values, heads), scales)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._file.shape(self._names[name])

    def dtype(self, name: str) -> str:
        """Return the dtype that a tensor is read as."""
        return "F32"


# --- its tokenizer ---------------------------------------------------------------------------------------------------

# How text is cut before byte pairs are merged, by the name that llama.cpp gives the rule: whether digits stand alone.
CUTS = {"gpt-2": False, "smollm": True}


def tokenizer_of(path: str | Path) -> BytePairTokenizer:
    """Return the tokenizer inside a GGUF file: byte pair encoding of GPT-2's kind.

    Raises:
        DataError: the file has none, or one of another kind.
    """
    metadata = read_gguf(path).metadata
    tokens, merges, kinds = (metadata.get(f"tokenizer.ggml.{key}") for key in ("tokens", "merges", "token_type"))
    rule = metadata.get("tokenizer.ggml.pre", "gpt-2")
    if metadata.get("tokenizer.ggml.model") != "gpt2" or rule not in CUTS or not tokens or merges is None:
        raise DataError(
            f"tokenizer_of: a GGUF file has the byte pairs of a tokenizer of the kinds {', '.join(CUTS)}, got "
            f"{metadata.get('tokenizer.ggml.model')!r} with the rule {rule!r}. Give the model's tokenizer.json instead."
        )
    try:
        tokenizer = _built(tokens, merges, kinds or [], CUTS[rule])
        if metadata.get("tokenizer.ggml.add_bos_token"):
            _add_first(tokenizer, metadata["tokenizer.ggml.bos_token_id"])
        return BytePairTokenizer(tokenizer)
    except BaseException as error:  # the library raises plain exceptions, and a panic of it is not even one
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise DataError(f"tokenizer_of: the tokenizer in {path} does not hold together: {str(error)[:300]}.") from error


def _built(tokens: list[str], merges: list[str], kinds: list[int], digits: bool) -> "tokenizers.Tokenizer":
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    pairs = [(first, second) for first, _, second in (merge.partition(" ") for merge in merges)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, pairs))
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alone = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([alone, by_bytes]) if digits else by_bytes
    tokenizer.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, kinds, strict=False):
        if kind in (CONTROL, ADDED):
            tokenizer.add_tokens([AddedToken(token, normalized=False, special=kind == CONTROL)])
    return tokenizer


def _add_first(tokenizer: "tokenizers.Tokenizer", first: int) -> None:
    """Let every text begin with a token, where special tokens are asked for."""
    from tokenizers import processors

    token = tokenizer.id_to_token(first)
    if token is None or set(token) & set("$: "):  # which mean something else in a template
        raise ValueError(f"the first token, of the id {first!r}, is {token!r}")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, first)]
    )
