"""Whole directories: a model from config.json and its tensors, and back.

    model = Llama.from_pretrained("SmolLM2-135M")          # or AutoModel.from_pretrained, which reads what it is
    tokenizer = load_tokenizer("SmolLM2-135M/tokenizer.json")
    model.save_pretrained("copy", tokenizer=tokenizer)     # a directory that Transformers opens

All names and shapes are compared before anything is loaded, so that one message has every fault.
"""

import json
import os
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from .. import _io
from ..arrays import Array, to_numpy
from ..data.text.tokenizer import Tokenizer
from ..errors import ConfigError, DataError, StateError
from ..models.bert import Bert
from ..models.output import Model
from ..models.registry import record_of
from ..nn import init
from ..nn.quantize import lay_together, matrices_of, replace_data
from ..ops.quantized import QuantizedWeight, Weights, check_weights, is_quantized, quantize
from .configurations import from_hugging_face
from .configurations_write import to_hugging_face
from .gguf import HuggingFaceView, hugging_face_values, read_gguf
from .hub import fetch, is_hub_name
from .names import Family, Piece, family_of
from .tensors import as_floats, mapped_or_copied, read_tensors, write_tensors
from .tokenizer import save_tokenizer
from .training_files import read_training_file

__all__ = ["AutoModel", "load_pretrained", "save_pretrained"]

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
BYTES: dict[Weights, float] = {"int8": 1 + 4 / 32, "bfloat16": 2.0}  # of a number of a matrix
BIAS = "cls.predictions.bias"  # of a BERT's head
MOST_FAULTS = 40  # that a message lists


class AutoModel:
    """The model that a directory holds: `AutoModel.from_pretrained(DIR)` returns a GPT, a Llama or a ViT."""

    @staticmethod
    def from_pretrained(folder: str | Path, *, dtype: Any = None, **options: Any) -> Any:
        """Return the model of a Hugging Face directory, in `eval()`; see `load_pretrained`."""
        return load_pretrained(folder, dtype=dtype, **options)


def load_pretrained(
    folder: str | Path,
    kind: type[Model] = Model,
    *,
    dtype: Any = None,
    weights: Weights | None = None,
    **options: Any,
) -> Any:
    """Return the model of a Hugging Face directory, a GGUF file, or a file of nanoGPT or Compyute, in `eval()`.

    folder: holds config.json and model.safetensors, or shards and their index; or is a file that ends in .gguf, or
    another one, see `training_files`; or the name "owner/name" of a model that huggingface_hub fetches.
    kind: the class it must be. dtype: of the parameters; None means float64 where the file has float64, and float32
    else. weights: "int8" or "bfloat16" holds the matrices as such, for inference; see `ops.quantized`. options: fields
    of the configuration that are set to other values, such as attn_implementation or context_length; dropout is 0
    unless given.

    What the file holds as the model computes with it is mapped into memory, not copied, and a page of it is copied when
    it is written to.

    Raises:
        DataError: a file is missing or breaks its format. ConfigError: an architecture or an option that our models do
        not have, a dtype other than float32 beside weights, or a model that is larger than the memory of this machine.
        RangeError: unknown weights. StateError: with every tensor that is missing, unexpected or of another shape.
    """
    dtype = _checked_dtype(dtype)
    if weights is not None:
        check_weights("from_pretrained", weights)
        if dtype is not None and dtype != np.float32:
            raise ConfigError(f"from_pretrained: a model with weights in {weights} computes in float32, got {dtype}.")
        dtype = np.float32
    folder = fetch(str(folder)) if is_hub_name(folder) else Path(folder)
    if folder.is_file() and folder.suffix != ".gguf":
        model = assembled(*read_training_file(folder, **options), dtype, weights)
        _check_kind(type(model), kind, folder)
        return model
    values, read = _opened(folder)
    config = from_hugging_face(values, **options)
    _check_kind(record_of(config).model, kind, folder)
    family = family_of(config)
    assert family is not None
    model = assembled(config, family, read(), dtype, weights)
    model.hugging_face = values  # what config.json says beside our fields, for `save_pretrained`
    return model


def _checked_dtype(dtype: Any) -> Any:
    """Return the dtype of NumPy that was asked for; None for none, and for "auto". Raises ConfigError."""
    if dtype is None or (isinstance(dtype, str) and dtype == "auto"):
        return None
    try:
        found = np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError):  # NumPy has no bfloat16
        found = None
    if found not in (np.float32, np.float64):
        raise ConfigError(
            f"from_pretrained: a model computes in float32 or float64, got dtype {dtype}. Give weights='bfloat16' for "
            "matrices that are held in bfloat16."
        )
    return found


def _check_kind(own: type, kind: type, path: Path) -> None:
    if not issubclass(own, kind):
        raise ConfigError(
            f"{kind.__name__}.from_pretrained: {path} holds a {own.__name__}. "
            f"Call {own.__name__}.from_pretrained, or AutoModel.from_pretrained."
        )


def assembled(config: Any, family: Family, tensors: Any, dtype: Any, weights: Weights | None = None) -> Any:
    """Return the model of a configuration with the tensors of a file, in `eval()`. Raises as `load_pretrained`."""
    named = _named(tensors, family)
    second = next((name for name in tensors if name.endswith("predictions.decoder.bias")), None)
    first = _replaced_bias(named, second, config)
    _check_sizes(config, tensors)
    pieces = family.pieces(config)
    _check(named, pieces, tensors, family, getattr(config, "tie_word_embeddings", False))
    wanted = dtype or (np.float64 if any(tensors.dtype(name) == "F64" for name in tensors) else np.float32)
    check_memory(pieces, np.dtype(wanted).itemsize, None if weights is None else BYTES[weights])
    with init.skipped():
        model: Any = record_of(config).model(config)
    model.eval()
    _fill(model, pieces, named, tensors, np.dtype(wanted), weights)
    # tensors that mean nothing here, such as a pooler, are written again as they are
    unused = [name for name in tensors if family.canonical(name) is None and not name.endswith("decoder.bias")]
    if first is not None and not np.array_equal(tensors[first], tensors[named[BIAS]]):
        unused.append(first)
    model.unused_tensors = {name: tensors[name] for name in unused}
    model.second_bias = second
    return model


def _replaced_bias(named: dict[str, str], second: str | None, config: Any) -> str | None:
    """Name the second bias of a BERT's head where Transformers adds that one. Return the name of the first, if any.

    Transformers 5 adds it where the matrix of the head is not tied to the embedding; the first then means nothing.
    """
    untied = getattr(config, "masked_head", False) and not config.tie_word_embeddings
    if second is None or not untied:
        return None
    first = named.get(BIAS)
    named[BIAS] = second
    return first


def _opened(folder: Path) -> tuple[dict[str, Any], Callable[[], Any]]:
    """Return the values of config.json, and a function that returns the tensors."""
    if folder.suffix != ".gguf":
        return read_config(folder), lambda: read_tensors(folder)
    file = read_gguf(folder)
    values = hugging_face_values(file)
    return values, lambda: HuggingFaceView(file, values)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the values of config.json. Raises DataError."""
    try:
        values = _io.read_json(folder / CONFIG)
    except (OSError, ValueError) as error:
        raise DataError(
            f"from_pretrained: a directory of Hugging Face Transformers holds {CONFIG}; that of {folder} cannot be "
            f"read: {str(error)[:300]}. Give the path of a downloaded model."
        ) from error
    if not isinstance(values, dict):
        raise DataError(f"from_pretrained: {folder / CONFIG} must hold a JSON object.")
    return values


def _named(tensors: Any, family: Family) -> dict[str, str]:
    """Return the names of a file by their complete spelling. Raises DataError for two of one meaning."""
    named: dict[str, str] = {}
    for own in tensors:
        name = family.canonical(own)
        if name is None:
            continue
        if name in named:
            raise DataError(f"from_pretrained: the file has {own} and {named[name]}, which are the same tensor.")
        named[name] = own
    return named


def _check_sizes(config: Any, tensors: Any) -> None:
    """Raise StateError for a size of the model that is beyond everything in the file, before anything is made of it."""
    number = sum(prod(tensors.shape(name)) for name in tensors)
    for field in ("vocab_size", "embed_dim", "num_heads", "num_layers", "num_kv_heads", "head_dim", "mlp_dim"):
        size, most = getattr(config, field, None) or 0, len(tensors) if field == "num_layers" else number
        if size > most:
            raise StateError(
                f"from_pretrained: config.json asks for {field} {size:,}, and the file holds {len(tensors):,} tensors "
                f"with {number:,} numbers. Fetch or copy the model again."
            )


def _check(named: Mapping[str, str], pieces: list[Piece], tensors: Any, family: Family, tied: bool) -> None:
    """Raise StateError with every tensor that is missing, unexpected, of another shape, or no float."""
    wanted = {name: shape for piece in pieces for name, shape in piece.theirs.items()}
    faults = [f"missing: {name} {shape}" for name, shape in wanted.items() if name not in named]
    for name, own in named.items():
        shape = tensors.shape(own)
        if name not in wanted:
            if tied and name == family.head:
                faults += _differs_from_embedding(tensors, own, named[next(iter(wanted))])
            else:
                faults.append(f"unexpected: {own} {shape}")
        elif shape != wanted[name]:
            faults.append(f"other shape: {own} is {shape}, and config.json asks for {wanted[name]}")
        elif not tensors.dtype(own).endswith(("F16", "F32", "F64")):
            faults.append(f"no floats: {own} holds {tensors.dtype(own)}")
    if faults:
        more = f"\n  and {len(faults) - MOST_FAULTS} more" if len(faults) > MOST_FAULTS else ""
        raise StateError(
            "from_pretrained: the tensors must be those that config.json describes.\n  "
            + "\n  ".join(faults[:MOST_FAULTS])
            + more
            + "\nFetch or copy the directory again, or correct config.json."
        )


def _differs_from_embedding(tensors: Any, head: str, embedding: str) -> list[str]:
    """Return a fault for a head beside a tied embedding that is another matrix."""
    if np.array_equal(tensors[head], tensors[embedding]):
        return []
    return [f"not tied: {head} differs from {embedding}, and config.json has tie_word_embeddings true"]


def _fill(
    model: Any,
    pieces: list[Piece],
    named: Mapping[str, str],
    tensors: Any,
    dtype: "np.dtype[Any]",
    weights: Weights | None,
) -> None:
    """Give the parameters their data, one after the other: mapped, copied or quantized."""
    matrices = {id(parameter) for parameter in matrices_of(model)} if weights is not None else set()
    left = dict(model.named_parameters())
    for piece in pieces:
        parameter = left.pop(piece.ours)
        own = {name: named[name] for name in piece.theirs}
        if weights is not None and id(parameter) in matrices:
            replace_data(parameter, _quantized(piece, own, tensors, weights))
        else:
            replace_data(parameter, _floats(piece, own, tensors, dtype))
    for parameter in left.values():
        replace_data(parameter, parameter.data.astype(dtype))
    lay_together(model)


def _floats(piece: Piece, own: Mapping[str, str], tensors: Any, dtype: "np.dtype[Any]") -> Array:
    array = piece.read({name: tensors[theirs] for name, theirs in own.items()})
    return mapped_or_copied(array, dtype) if array.dtype == dtype else as_floats(array, dtype)


def _quantized(piece: Piece, own: Mapping[str, str], tensors: Any, weights: Weights) -> Any:
    """Return a parameter in few bits, from what the file holds in these already, or rounded tensor by tensor."""
    if piece.layout not in ("same", "rows"):
        return quantize(_floats(piece, own, tensors, np.dtype(np.float32)), weights)
    ready = getattr(tensors, "quantized", lambda name, weights: None)
    parts: list[Any] = []
    for theirs in own.values():
        found = ready(theirs, weights)
        parts.append(quantize(as_floats(tensors[theirs], np.float32), weights) if found is None else found)
    if len(parts) == 1:
        return parts[0]
    if not all(map(is_quantized, parts)):
        return np.concatenate([np.asarray(part) for part in parts])
    scales = None if parts[0].scales is None else np.concatenate([part.scales for part in parts])
    return QuantizedWeight(np.concatenate([part.values for part in parts]), scales)


def check_memory(pieces: list[Piece], itemsize: int, quantized: float | None = None) -> None:
    """Raise a ConfigError for weights that take more bytes than this machine has memory.

    itemsize: the bytes of a number. quantized: those of a number of a matrix, where matrices have fewer.
    """
    needed = sum(prod(p.shape) * (quantized if quantized and len(p.shape) > 1 else itemsize) for p in pieces)
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows does not say it so
        return
    if needed > there:
        raise ConfigError(
            f"from_pretrained: the weights take {needed / 2**30:.1f} GiB, and this machine has {there / 2**30:.1f} GiB "
            "of memory. Give weights='int8', a smaller model, or a machine with more memory."
        )


def save_pretrained(
    model: Any,
    folder: str | Path,
    *,
    dtype: str | None = None,
    tokenizer: Tokenizer | None = None,
    shard_bytes: int = 50_000_000_000,
) -> None:
    """Write a directory that Hugging Face Transformers opens: config.json, tensors, and tokenizer.json if one is given.

    dtype: "float64", "float32", "float16" or "bfloat16"; None means that of the parameters. Tied weights are written
    once. What config.json said beside our fields when the model was read is written again.

    Raises:
        ConfigError: no architecture of Transformers is this model. DataError: an unknown dtype, or the directory cannot
        be written.
    """
    values, tensors, dtype = described(model, dtype)
    write_directory(folder, values, tensors, dtype, tokenizer, shard_bytes)


def described(model: Any, dtype: str | None, headless: bool = False) -> tuple[dict[str, Any], dict[str, Array], str]:
    """Return the values of config.json, the tensors by their names, and the dtype that they are written in.

    headless: leave out the head of a language model. Raises as `save_pretrained`.
    """
    values = to_hugging_face(model.config)
    known = getattr(model, "hugging_face", {})
    if known.get("model_type") == values["model_type"]:
        values = _merged(known, values, model.config)
    family = family_of(model.config)
    assert family is not None
    parameters = {name: to_numpy(parameter.data) for name, parameter in model.named_parameters()}
    dtype = dtype or str(parameters[next(iter(parameters))].dtype)
    if (
        dtype != "float32" or "torch_dtype" in values or "dtype" in values
    ):  # float32 is what a config.json without means
        values = {**values, "dtype" if "dtype" in values else "torch_dtype": dtype}
    tensors: dict[str, Array] = {}
    for piece in family.pieces(model.config):
        if headless and family.head in piece.theirs:
            continue
        array = parameters.get(piece.ours)
        if array is None:  # a bias that their architecture has, and this model has not
            array = np.zeros(piece.shape, np.float32)
        tensors |= {family.written(name, model.config): found for name, found in piece.write(array).items()}
    tensors |= getattr(model, "unused_tensors", {}) | (_beside(model, parameters) if type(model) is Bert else {})
    return values, tensors, dtype


def write_directory(
    folder: str | Path,
    values: Mapping[str, Any],
    tensors: Mapping[str, Array],
    dtype: str,
    tokenizer: Tokenizer | None = None,
    shard_bytes: int = 50_000_000_000,
) -> None:
    """Write config.json, the tensors, and tokenizer.json if one is given. Raises DataError."""
    folder = Path(folder)
    try:
        write_tensors(folder, dict(sorted(tensors.items(), key=file_order)), dtype, shard_bytes)
        _io.replace_text(folder / CONFIG, json.dumps(values, indent=2, sort_keys=True) + "\n")
        if tokenizer is not None:
            save_tokenizer(tokenizer, folder)
    except OSError as error:
        raise DataError(
            f"save_pretrained: {folder} must be a folder that can be written; it cannot: {error}."
        ) from error


def _beside(model: Any, parameters: Mapping[str, Array]) -> dict[str, Array]:
    """Return the tensors of a BERT that repeat another or mean nothing here, and that Transformers 5 misses in a file.

    They are the bias of the head under its second name, and zeros for a pooler. A model that was read has those of its
    file.
    """
    config, was_read = model.config, hasattr(model, "second_bias")
    untied = "cls.predictions.decoder.bias" if config.masked_head and not config.tie_word_embeddings else None
    name = model.second_bias if was_read else untied
    beside = {} if name is None else {name: parameters["head.bias"]}
    if not config.masked_head and not was_read:
        C = config.embed_dim
        beside |= {"pooler.dense.weight": np.zeros((C, C), np.float32), "pooler.dense.bias": np.zeros(C, np.float32)}
    return beside


def file_order(item: tuple[str, Array]) -> tuple[bool, str]:
    """Return what tensors are sorted by, as in files of the safetensors library: integers first, then by name."""
    name, array = item
    return array.dtype.kind == "f", name


def _merged(known: Mapping[str, Any], values: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Return the values that were read, unless they describe another configuration than the model has now."""
    same = from_hugging_face(known)
    for name in ("dropout", "attn_implementation"):  # which are no part of the architecture
        object.__setattr__(same, name, getattr(config, name))
    return dict(known) if same == config else {**known, **values}
