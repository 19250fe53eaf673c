"""Files that other training programs write: nanoGPT's ckpt.pt and meta.pkl, and what Compyute saves.

Both are pickles, of which only arrays and plain values are read; see `pickles`.

    nanoGPT    {"model": tensors, "model_args": {"n_layer": 6, ...}, ...}, a file of torch.save
    Compyute   {"model": tensors, "optim": ...}, or the tensors alone; the number of heads is not in the file
"""

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..arrays import Array
from ..data.text.bpe import BytePairTokenizer
from ..data.text.characters import CharacterTokenizer
from ..errors import ConfigError, DataError
from ..models.gpt import GPTConfig
from .names import Family, Piece, gpt_pieces, matrix, vector
from .pickles import read_pickle, read_torch
from .tokenizer import of_characters

__all__ = ["read_meta", "read_training_file"]


class Arrays(Mapping[str, Array]):
    """Arrays by name, as the tensors of a file."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = dict(arrays)

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array."""
        return tuple(self._arrays[name].shape)

    def dtype(self, name: str) -> str:
        """Return the dtype of an array as safetensors spells it."""
        dtype = self._arrays[name].dtype
        return f"{ {'f': 'F', 'i': 'I', 'u': 'U', 'b': 'BOOL'}.get(dtype.kind, '?') }{8 * dtype.itemsize}"


def read_training_file(path: Path, **options: Any) -> tuple[GPTConfig, Family, Arrays]:
    """Return configuration, names and tensors of a model. options: fields of the configuration.

    Raises:
        DataError: the file is missing or is neither. ConfigError: a configuration that a GPT does not have, or a file
        of Compyute without the option num_heads.
    """
    is_torch = zipfile.is_zipfile(path)
    saved = read_torch(path) if is_torch else read_pickle(path)
    state = saved.get("model", saved) if isinstance(saved, dict) else None
    arrays = (
        {name: array for name, array in state.items() if hasattr(array, "dtype")} if isinstance(state, dict) else {}
    )
    if not arrays:
        raise DataError(
            f"from_pretrained: {path} has no tensors of a model. Give ckpt.pt of nanoGPT, or what cp.save wrote."
        )
    if is_torch:
        return _nanogpt(path, saved, arrays, options)
    return _compyute(path, arrays, options)


# --- nanoGPT ---------------------------------------------------------------------------------------------------------

FIELDS = {
    "vocab_size": "vocab_size",
    "block_size": "context_length",
    "n_embd": "embed_dim",
    "n_head": "num_heads",
    "n_layer": "num_layers",
    "bias": "bias",
}


def _nanogpt(path: Path, saved: Any, arrays: Mapping[str, Array], options: Any) -> tuple[GPTConfig, Family, Arrays]:
    given = saved.get("model_args")
    if not isinstance(given, dict) or not all(name in given for name in FIELDS):
        raise DataError(
            f"from_pretrained: {path} has no model_args with {', '.join(FIELDS)}, as nanoGPT's ckpt.pt has."
        )
    fields = {ours: given[theirs] for theirs, ours in FIELDS.items()}
    config = _config({**fields, "activation": "gelu", **options})
    bare = {name.removeprefix("_orig_mod."): array for name, array in arrays.items()}  # of a compiled model
    family = Family("transformer.", nanogpt_pieces, "lm_head.weight", r"h\.\d+\.attn\.bias")
    return config, family, Arrays(bare)


def nanogpt_pieces(config: GPTConfig) -> list[Piece]:
    """The names of GPT-2, with matrices as (out, in), and with or without biases."""
    pieces = [piece for piece in gpt_pieces(config) if config.bias or not piece.ours.endswith("bias")]
    return [
        replace(piece, theirs=dict.fromkeys(piece.theirs, piece.shape), layout="same")
        if piece.layout == "transposed"
        else piece
        for piece in pieces
    ]


def read_meta(path: str | Path) -> CharacterTokenizer | BytePairTokenizer:
    """Return the tokenizer of nanoGPT's meta.pkl: a token for each character.

    Raises:
        DataError: the file is missing, or holds something else.
    """
    meta = read_pickle(path)
    stoi = meta.get("stoi") if isinstance(meta, dict) else None
    characters = sorted(stoi, key=lambda each: (str(type(stoi[each])), stoi[each])) if isinstance(stoi, dict) else []
    is_whole = [stoi[each] for each in characters] == list(range(len(characters))) if stoi else False
    if not is_whole or not all(isinstance(each, str) and len(each) == 1 for each in characters):
        raise DataError(
            f"read_meta: {path} must hold stoi, the ids of characters from 0 on, as nanoGPT's meta.pkl does."
        )
    if characters == sorted(characters):
        return CharacterTokenizer("".join(characters))
    return of_characters(characters)


# --- Compyute --------------------------------------------------------------------------------------------------------


def _compyute(path: Path, arrays: Mapping[str, Array], options: Any) -> tuple[GPTConfig, Family, Arrays]:
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    needed = ("token_emb.w", "pos_emb.w", "blocks.0.mlp.up_proj.w")
    if missing := [name for name in needed if len(shapes.get(name, ())) != 2]:
        raise DataError(f"from_pretrained: {path} has no {', '.join(missing)}, which a GPT of Compyute has.")
    if "num_heads" not in options:
        raise ConfigError(
            f"from_pretrained: {path} does not say how many heads there are. Give num_heads=..., or "
            "make a directory of it, which says so: compyute convert FILE DIR --num-heads N"
        )
    head = arrays.get("head.w")
    fields = {
        "vocab_size": shapes["token_emb.w"][0],
        "context_length": shapes["pos_emb.w"][0],
        "embed_dim": shapes["token_emb.w"][1],
        "num_layers": len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
        "mlp_dim": shapes["blocks.0.mlp.up_proj.w"][0],
        "bias": "ln.b" in shapes,
        "tie_word_embeddings": head is None or bool((head == arrays["token_emb.w"]).all()),
    }
    family = Family("", compyute_pieces, "head.w", r"pos|blocks\.\d+\.attn\.mask")
    return _config({**fields, "activation": "gelu_tanh", **options}), family, Arrays(arrays)


def compyute_pieces(config: GPTConfig) -> list[Piece]:
    """A GPT of Compyute: weights (out, in), queries, keys and values below each other."""
    C, F = config.embed_dim, config.mlp_dim or 4 * config.embed_dim
    pieces = [
        matrix("token_embedding.weight", "token_emb.w", config.vocab_size, C),
        matrix("position.weight", "pos_emb.w", config.context_length, C),
    ]

    def linear(ours: str, theirs: tuple[str, str], rows: int, columns: int) -> list[Piece]:
        return [matrix(f"{ours}weight", theirs[0], rows, columns), vector(f"{ours}bias", theirs[1], rows)]

    def norm(ours: str, theirs: str) -> list[Piece]:
        return [vector(f"{ours}.weight", f"{theirs}.w", C), vector(f"{ours}.bias", f"{theirs}.b", C)]

    for i in range(config.num_layers):
        b = f"blocks.{i}"
        pieces += norm(f"{b}.attention_norm", f"{b}.ln1") + norm(f"{b}.feed_forward_norm", f"{b}.ln2")
        pieces += linear(f"{b}.attention.in_", (f"{b}.attn.w_i", f"{b}.attn.b_i"), 3 * C, C)
        pieces += linear(f"{b}.attention.out_", (f"{b}.attn.w_o", f"{b}.attn.b_o"), C, C)
        for name, rows, columns in (("up", F, C), ("down", C, F)):
            theirs = f"{b}.mlp.{name}_proj"
            pieces += linear(f"{b}.feed_forward.{name}.", (f"{theirs}.w", f"{theirs}.b"), rows, columns)
    pieces += norm("norm", "ln")
    if not config.tie_word_embeddings:
        pieces.append(matrix("head.weight", "head.w", config.vocab_size, C))
    return [piece for piece in pieces if config.bias or not piece.ours.endswith("bias")]


def _config(fields: Mapping[str, Any]) -> GPTConfig:
    try:
        return GPTConfig(**fields)
    except TypeError as error:
        raise ConfigError(f"from_pretrained: an option is a field of GPTConfig: {error}.") from error
