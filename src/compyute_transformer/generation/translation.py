"""Translate: the encoder reads the source once, then the decoder writes the translation token by token.

    source -> encode -> memory      BEGIN -> decode -> logits -> beam: the hypotheses it keeps -> decode -> … -> END
                                              ^------- the rows of the cache that are kept -----+

`translate` searches for the best translation. Many sources are translated at once: each has a beam of its own, see
`beam`; the hypotheses of all beams are the rows of one batch, and a source leaves the batch when its search is over.
`stream_translation` samples one translation token by token, as `text.stream` samples a text.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import to_device, to_numpy
from ..data.pairs.batches import SpecialTokens, special_tokens
from ..data.text.tokenizer import Tokenizer
from ..errors import ConfigError, RangeError
from ..models.transformer import Transformer
from ..nn.module import evaluating
from ..random import SAMPLING, Generator
from .beam import Beam, BeamOptions, Hypothesis, log_softmax
from .cache import KeyValueCache
from .detokenize import StopTexts, WholeCharacters
from .sampling import Sampling, check_count, choose, with_options
from .text import DEFAULT_SAMPLING, TextStream

__all__ = ["Translation", "stream_translation", "translate"]

AT_ONCE = 64  # sources in one batch


@dataclass(frozen=True)
class Translation:
    """A translation and its probability.

    ids: its tokens, without END. log_probabilities: of each token, and of END where `ended`. score: the beam search's
    score, see `beam`. ended: whether END was written.
    """

    text: str
    ids: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    score: float
    ended: bool

    @property
    def log_probability(self) -> float:
        """Return the log-probability of the whole translation, in nats."""
        return math.fsum(self.log_probabilities)


def translate(
    model: Transformer,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    beam_size: int = 1,
    length_penalty: float = 0.6,
    max_new_tokens: int | None = None,
    cached: bool = True,
) -> list[Translation]:
    """Return one translation for each text, by beam search; the model runs in `eval()`, whatever mode it is in.

    beam_size: how many hypotheses are kept; 1 is greedy search. length_penalty: α of the score, see `beam`.
    max_new_tokens: of a translation, END included; at most the context length. A search none of whose hypotheses ended
    by then returns the best of them, not ended. cached: keep keys and values; False reads everything anew for each
    token.

    Raises RangeError for one text instead of a sequence, an option outside its range, or a text longer than the
    context; VocabularyError for a character that the tokenizer lacks; ConfigError for a tokenizer of another model;
    NonFiniteError for logits that are NaN or infinite.
    """
    special = special_tokens(tokenizer)
    options = BeamOptions(beam_size, length_penalty, _longest(model, max_new_tokens), special.end)
    options.check("translate")
    if isinstance(texts, str):
        raise RangeError("translate: texts are a sequence of texts, got one text. Give [text].")
    sources = _sources(model, tokenizer, texts, special)
    translations: dict[int, Translation] = {}
    order = sorted(range(len(sources)), key=lambda index: len(sources[index]))  # similar lengths need little padding
    for start in range(0, len(order), AT_ONCE):
        chunk = order[start : start + AT_ONCE]
        best = _search_all(_Reader(model, [sources[index] for index in chunk], special, cached), options)
        translations |= {i: _translation(tokenizer, found, options) for i, found in zip(chunk, best, strict=True)}
    return [translations[index] for index in range(len(sources))]


def stream_translation(
    model: Transformer,
    tokenizer: Tokenizer,
    text: str,
    *,
    max_new_tokens: int | None = None,
    sampling: Sampling = DEFAULT_SAMPLING,
    cached: bool = True,
    **options: Any,
) -> TextStream:
    """Return an iterator over a sampled translation, in pieces, each as soon as its tokens are sampled.

    max_new_tokens: see `translate`. sampling: see `text.stream`; the tokens of the translation count as seen, those of
    the source do not, and temperature 0 is greedy search. options: single fields of `sampling`. `ended` says whether
    END or one of the stop_ids was written, which is not part of the text. The model runs in `eval()`, whatever mode it
    is in.

    Raises, at the call, what `translate` raises for a text and a tokenizer, and RangeError for an option outside its
    range.
    """
    sampling = with_options("stream_translation", sampling, options)
    special = special_tokens(tokenizer)
    longest = _longest(model, max_new_tokens)
    if longest < 1:
        raise RangeError(f"stream_translation: max_new_tokens is at least 1, got {max_new_tokens}.")
    [source] = _sources(model, tokenizer, [text], special)
    stops, keys = StopTexts(sampling.stop), Generator(sampling.seed, SAMPLING)

    def tokens() -> Iterator[tuple[int, float]]:
        reader, written = _Reader(model, [source], special, cached), Hypothesis()
        for _ in range(longest):
            logits = reader.logits([written])
            [log_p] = log_softmax(logits)
            token = choose(reader.possible(logits)[0], sampling, written.ids, key=keys.next())
            if token == special.end or token in sampling.stop_ids:
                pieces.ended = True
                return
            written = Hypothesis((*written.ids, token))
            yield token, float(log_p[token])

    pieces = TextStream(tokens(), WholeCharacters(tokenizer), stops)
    return pieces


def _longest(model: Transformer, max_new_tokens: int | None) -> int:
    L = model.config.context_length
    return L if max_new_tokens is None else min(L, check_count("translate", "max_new_tokens", max_new_tokens))


def _sources(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str], special: SpecialTokens) -> list[list[int]]:
    """Return the ids of texts as the encoder reads them. Raise for texts that it cannot read."""
    L = model.config.context_length
    if special.vocab_size > model.config.vocab_size:
        raise ConfigError(
            "translate: every token has a row in the model, but the tokenizer has, with the three special ones, "
            f"{special.vocab_size} tokens and the model {model.config.vocab_size} rows. Use the tokenizer that the "
            "model was trained with."
        )
    sources = [[*tokenizer.encode(text).tolist(), special.end] for text in texts]
    for text, source in zip(texts, sources, strict=True):
        if len(source) > L:
            raise RangeError(
                f"translate: a source has at most {L} tokens, the context length, its end included, got {len(source)} "
                f"for {text[:40]!r}. Cut it into shorter texts."
            )
    return sources


class _Reader:
    """Run the decoder on hypotheses of equal length; row r of `memory` and of the cache belongs to hypothesis r."""

    def __init__(
        self, model: Transformer, sources: Sequence[Sequence[int]], special: SpecialTokens, cached: bool
    ) -> None:
        lengths = np.array([len(source) for source in sources], np.int32)
        ids = np.full((len(sources), lengths.max()), special.padding, np.int32)
        for row, source in zip(ids, sources, strict=True):
            row[: len(source)] = source
        self._model, self._special = model, special
        self._lengths = to_device(lengths, model.device)
        with evaluating():
            self._memory = model.encode(to_device(ids, model.device), self._lengths)
        self._cache = KeyValueCache(model, len(sources)) if cached else None
        self.rows = len(sources)

    def logits(self, hypotheses: Sequence[Hypothesis]) -> NDArray[np.float64]:
        """Return the logits (R, V) of the token that follows each hypothesis."""
        targets = np.array([(self._special.begin, *hypothesis.ids) for hypothesis in hypotheses], np.int32)
        cache = self._cache
        if cache is not None:
            targets = targets[:, cache.length :]  # BEGIN the first time, then the one token that is new
        ids = to_device(targets, self._model.device)
        with evaluating():
            logits = self._model.decode(ids, self._memory, self._lengths, cache=cache, logits_to_keep=1)[:, 0]
        return to_numpy(logits).astype(np.float64)

    def possible(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the same logits or log-probabilities, −∞ for tokens that cannot follow."""
        rows = rows.copy()
        rows[:, [self._special.padding, self._special.begin]] = -np.inf  # of the special tokens only END is written
        rows[:, self._special.vocab_size :] = -np.inf  # a model may have more rows than there are tokens
        return rows

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order; a row may occur twice."""
        if list(rows) == list(range(self.rows)):
            return
        index = to_device(np.array(rows), self._model.device)
        self._memory, self._lengths, self.rows = self._memory[index], self._lengths[index], len(rows)
        if self._cache is not None:
            self._cache.select(rows)


def _search_all(reader: _Reader, options: BeamOptions) -> list[Hypothesis]:
    """Return the best hypothesis of every source."""
    searches = [Beam(options) for _ in range(reader.rows)]
    searching = searches
    while True:
        log_p = reader.possible(log_softmax(reader.logits([b for search in searching for b in search.open])))
        rows, first, going_on = [], 0, []
        for search in searching:
            width = len(search.open)
            parents = search.extend(log_p[first : first + width])
            if not search.over:
                going_on.append(search)
                rows += [first + parent for parent in parents]
            first += width
        if not going_on:
            return [search.best for search in searches]
        searching = going_on
        reader.select(rows)


def _translation(tokenizer: Tokenizer, found: Hypothesis, options: BeamOptions) -> Translation:
    ended = found.ids[-1] == options.end
    ids = found.ids[:-1] if ended else found.ids
    return Translation(tokenizer.decode(ids), ids, found.log_probabilities, found.score(options), ended)
