"""Generate ids from ids: the loop of `text.stream` on arrays, without a tokenizer."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arrays import Array, to_device, to_numpy
from ..errors import DtypeError, RangeError, ShapeError
from ..models.language import LanguageModel
from ..random import SAMPLING, Generator
from .decode import Reader
from .sampling import Sampling, check_count, choose, with_options
from .speculative import SpeculativeReader, reader_of

__all__ = ["generate_ids"]


def generate_ids(
    model: LanguageModel,
    ids: Array,
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    stride: int = 1,
    draft: LanguageModel | None = None,
    **options: Any,
) -> Array:
    """Return ids (B, T) followed by the sampled ones, (B, T + n) with n at most max_new_tokens.

    ids may also be one row (T), and so is then the result. sampling: by default `Sampling()`; row r is sampled with the
    seed + r, so that equal rows get different continuations. A row ends with the first of its stop_ids; it is part of
    the result, and is repeated while other rows go on. stride: see `decode.window_start`. draft: see `text.stream`; it
    guesses for one row. options: single fields of `sampling`, temperature=0.5. The model runs in `eval()`.

    Raises ShapeError for ids of other axes or without a token, DtypeError for ids that are no integers, RangeError for
    an id or stop id outside the vocabulary, for stop texts, which need a tokenizer, and for a draft with several rows;
    ConfigError for a draft of another vocabulary.
    """
    sampling = with_options("generate", Sampling() if sampling is None else sampling, options)
    V = model.config.vocab_size
    given = np.asarray(to_numpy(ids))
    rows = given[None] if given.ndim == 1 else given
    if rows.ndim != 2 or rows.size == 0:
        raise ShapeError(f"generate: ids have shape (B, T) or (T) with at least one id a row, got {given.shape}.")
    if rows.dtype.kind not in "iu":
        raise DtypeError(f"generate: ids are integers, got {rows.dtype}. Convert them: ids.astype(np.int32).")
    if rows.min() < 0 or rows.max() >= V or any(not 0 <= stop < V for stop in sampling.stop_ids):
        raise RangeError(f"generate: ids and stop_ids lie in [0, {V}), the vocabulary of the model.")
    max_new_tokens = check_count("generate", "max_new_tokens", max_new_tokens)
    if sampling.stop:
        raise RangeError("generate: stop texts need a tokenizer. Give stop_ids, or use generation.generate.")
    if draft is not None and len(rows) > 1:
        raise RangeError(f"generate: a draft guesses for one row, got {len(rows)}. Generate them one after the other.")
    texts: list[list[int]] = rows.tolist()
    keys = [Generator((sampling.seed + row) % 2**64, SAMPLING) for row in range(len(texts))]
    longest = len(texts[0]) + max_new_tokens
    reader = reader_of(model, draft, sampling, keys[0], stride=stride, longest=longest, vocab_size=V)
    _extend(reader, texts, max_new_tokens, sampling, keys)
    longest = max(map(len, texts))
    full = np.array([text + text[-1:] * (longest - len(text)) for text in texts], given.dtype)
    return to_device(full[0] if given.ndim == 1 else full, model.device)


def _extend(
    reader: Reader | SpeculativeReader,
    texts: list[list[int]],
    count: int,
    sampling: Sampling,
    keys: Sequence[Generator],
) -> None:
    """Append up to `count` sampled ids to each text, fewer where a stop id ends it."""
    writing = list(range(len(texts)))
    for _ in range(count):
        logits = reader.read([texts[row] for row in writing])
        for row, row_logits in zip(writing, logits, strict=True):
            texts[row].append(choose(row_logits, sampling, texts[row], key=keys[row].next()))
        writing = [row for row in writing if texts[row][-1] not in sampling.stop_ids]
        if not writing:
            return
