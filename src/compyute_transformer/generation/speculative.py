"""Speculative decoding: a small draft model guesses tokens, and the model reads all guesses in one forward.

    draft    writes a few tokens after the text, one step each
    read     one forward of the model over the guesses: the logits after each of them
    compare  the next token is sampled from the model's own logits, as without a draft. If it is the guessed one, the
             logits after it are there already; if not, the cache goes back to the last token that was right

Each token comes from the model's logits and from the random key that it would have had without a draft, so the text is
the same, most probable tokens or sampled ones; a bad draft costs time only. (As between reading with a cache and
without, logits agree to rounding, so two tokens whose probabilities are equal to rounding may change places.) The draft
samples with the keys that the model will use, so that where both have similar probabilities they choose the same token.

Sources: Leviathan, Kalman, Matias, "Fast inference from transformers via speculative decoding" (ICML 2023); the same
random numbers for draft and model: Daliri, Musco, Suresh, "Coupling without communication and drafter-invariant
speculative decoding" (2024).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..arrays import Array
from ..errors import ConfigError
from ..models.language import LanguageModel
from ..random import Generator
from .decode import Reader
from .sampling import Sampling, choose

__all__ = ["SpeculativeReader", "reader_of"]

FIRST = 4  # guesses of the first draft
MOST = 15  # with the token before them as many rows as the kernels for a few positions take


class SpeculativeReader:
    """Compute the logits after one growing text, as `Reader` does, from forwards over tokens that a draft guessed.

    model, draft: language models of one vocabulary. sampling, keys: those that the next tokens will be sampled with;
    `keys` is read only. stride, longest: see `Reader`. vocab_size: how many tokens may be sampled.

    drafted: how many tokens the draft guessed. accepted: how many of them became part of the text.
    """

    def __init__(
        self,
        model: LanguageModel,
        draft: LanguageModel,
        sampling: Sampling,
        keys: Generator,
        *,
        stride: int,
        longest: int,
        vocab_size: int,
    ) -> None:
        self._reader = Reader(model, stride, longest=longest)
        self._drafter = Reader(draft, min(stride, draft.config.context_length), longest=longest)
        self._sampling, self._keys = sampling, keys
        self._longest, self._vocab_size = longest, vocab_size
        self._count = FIRST
        self._text: list[int] = []  # that the next guess follows
        self._guesses: list[int] = []  # that were read, and are not compared yet
        self._logits: list[Array] = []  # after each of the guesses
        self.drafted = self.accepted = 0

    def read(self, texts: Sequence[Sequence[int]]) -> Array:
        """Return the logits (1, V) of the token that follows the one text."""
        text = list(texts[0])
        if self._guesses and text == [*self._text, self._guesses[0]]:
            self.accepted += 1
            self._text.append(self._guesses.pop(0))
            if not self._guesses:
                self._count = min(self._count + 2, MOST)
            return self._logits.pop(0)[None]
        if self._guesses:
            self._count = max(self._count - 1, 1)
        self._guesses, self._logits = [], []  # if what follows is interrupted
        guesses = self._guess(text)
        first, *others = self._reader.read_ahead([*text, *guesses], len(guesses) + 1)
        self._text, self._guesses, self._logits = text, guesses, others
        self.drafted += len(guesses)
        return first[None]

    def _guess(self, text: list[int]) -> list[int]:
        """Return the tokens that the draft writes after a text, no more than fit in the window and in the text."""
        keys, guessed = replace(self._keys), list(text)
        for _ in range(min(self._count, self._reader.room(text), self._longest - len(text) - 1)):
            logits = self._drafter.read_ahead(guessed, 1)[0, : self._vocab_size]
            token = choose(logits, self._sampling, guessed, key=keys.next())
            guessed.append(token)
            if token in self._sampling.stop_ids:
                break
        return guessed[len(text) :]


def reader_of(
    model: LanguageModel,
    draft: LanguageModel | None,
    sampling: Sampling,
    keys: Generator,
    *,
    stride: int,
    longest: int,
    vocab_size: int,
    cached: bool = True,
) -> Reader | SpeculativeReader:
    """Return what computes the logits after a text: a `Reader`, or with a draft a `SpeculativeReader`.

    Raises ConfigError for a draft that is no language model of the same vocabulary, for one without a cache, and for
    one with dynamic scaling of rotary positions.
    """
    if draft is None:
        return Reader(model, stride, cached, longest)
    if not isinstance(draft, LanguageModel):
        raise ConfigError(f"draft: a draft is a language model, got {type(draft).__name__}.")
    if draft.config.vocab_size != model.config.vocab_size:
        raise ConfigError(
            f"draft: a draft has the vocabulary of the model, {model.config.vocab_size} tokens, got one of "
            f"{draft.config.vocab_size}. Give a smaller model that was trained with the same tokenizer."
        )
    if not cached:
        raise ConfigError(
            "draft: what a draft guesses is read into the cache, got cached=False. Leave one of them out."
        )
    if "dynamic" in (getattr(each.config, "rope_scaling", None) for each in (model, draft)):
        raise ConfigError(
            "draft: with dynamic scaling of rotary positions the length of a text changes all keys, so no token can be "
            "read ahead. Leave the draft out."
        )
    sizes: Any = {"stride": stride, "longest": longest, "vocab_size": vocab_size}
    return SpeculativeReader(model, draft, sampling, keys, **sizes)
