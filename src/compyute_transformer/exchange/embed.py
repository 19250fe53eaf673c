"""Sentence embeddings: one vector for each text, so that texts of like meaning have vectors of like direction.

ids (B, T) -> vectors of tokens (B, T, C) -> their mean, or the first -> length 1, if the model asks for it
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from ..arrays import Array, to_device, to_numpy
from ..errors import ConfigError, DataError
from ..nn.module import evaluating

__all__ = ["Pooling", "check_embeds", "embed_ids", "pooling_of"]

BATCH = 32
PADDING = 0  # any id: nothing attends to it
MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first", "pooling_mode_max_tokens": "max"}


class Pooling(NamedTuple):
    """How one vector is made of those of the tokens: their mean, the first, or the largest of each column.

    normalize: divide it by its length.
    """

    mode: Literal["mean", "first", "max"] = "mean"
    normalize: bool = True


def pooling_of(modules: Any, values: Mapping[str, Any]) -> Pooling:
    """Return what the modules.json of a sentence transformer says, and the config.json of its pooling.

    Raises:
        DataError: several ways of pooling together, or one that is not known.
    """
    kinds = [str(each.get("type")).rpartition(".")[2] for each in modules if isinstance(each, dict)] if modules else []
    if not kinds:
        return Pooling()
    chosen = [name for name, value in values.items() if name.startswith("pooling_mode") and value is True]
    if len(chosen) != 1 or chosen[0] not in MODES:
        raise DataError(f"embed: pooling is one of {', '.join(MODES)}, got {', '.join(chosen) or 'none of them'}.")
    if unknown := [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]:
        raise DataError(f"embed: modules.json names {', '.join(unknown)}, which cannot be computed here.")
    return Pooling(MODES[chosen[0]], "Normalize" in kinds)  # type: ignore[arg-type]


def embed_ids(model: Any, texts: Sequence[Sequence[int]], pooling: Pooling | None = None) -> Array:
    """Return one vector (C) for each text, (number, C). Texts of like length are read together.

    model: a `Bert`. texts: ids with the tokens that the tokenizer puts at their ends, at least one each.

    Raises:
        ConfigError: another model. RangeError: a text longer than context_length.
    """
    check_embeds(model)
    pooling = pooling or Pooling()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    vectors: Array = np.zeros((len(texts), model.config.embed_dim), model.flat.data.dtype)
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        lengths = np.array([len(texts[i]) for i in rows])
        ids = np.full((len(rows), lengths.max()), PADDING, np.int32)
        for row, i in zip(ids, rows, strict=True):
            row[: len(texts[i])] = texts[i]
        with evaluating():
            hidden = model.encode(to_device(ids, model.device), to_device(lengths, model.device))
        vectors[rows] = pooled(to_numpy(hidden), lengths, pooling)
    return vectors


def check_embeds(model: Any) -> None:
    """Raise ConfigError unless a model gives vectors of texts."""
    if not hasattr(model, "encode"):
        raise ConfigError(
            f"embed_ids: a Bert gives vectors of texts, got a {type(model).__name__}. "
            "Give the directory of a BERT, such as all-MiniLM-L6-v2."
        )


def pooled(hidden: Array, lengths: Array, pooling: Pooling) -> Array:
    """Return one vector (B, C) of those of the tokens (B, T, C) of texts with so many tokens (B)."""
    is_token = (np.arange(hidden.shape[1]) < lengths[:, None])[..., None]
    if pooling.mode == "first":
        vectors: Array = hidden[:, 0]
    elif pooling.mode == "max":
        vectors = np.where(is_token, hidden, -np.inf).max(axis=1)
    else:
        vectors = (hidden * is_token).sum(axis=1) / lengths[:, None].astype(hidden.dtype)
    if pooling.normalize:
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors.astype(hidden.dtype)
