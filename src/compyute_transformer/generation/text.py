"""Generate text: read the prompt, sample one token after the other, and return their text.

prompt -> ids -> prefill -> logits -> sample -> id -> text, once it is whole and holds no part of a stop text
                    step <-----------------------+
"""

from collections.abc import Iterator, Sequence
from math import nan
from time import perf_counter
from typing import Any

import numpy as np

from ..data.text.tokenizer import Tokenizer
from ..errors import ConfigError, RangeError, VocabularyError
from ..models.language import LanguageModel
from ..random import SAMPLING, Generator
from .detokenize import StopTexts, WholeCharacters
from .sampling import Sampling, check_count, choose, sample, with_options
from .speculative import SpeculativeReader, reader_of

__all__ = ["DEFAULT_SAMPLING", "TextStream", "check_generation", "context_of", "generate", "start_of", "stream"]

DEFAULT_SAMPLING = Sampling()


def generate(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    *,
    max_new_tokens: int,
    sampling: Sampling = DEFAULT_SAMPLING,
    stride: int = 1,
    draft: LanguageModel | None = None,
    **options: Any,
) -> str:
    """Return the text that follows a prompt, without the prompt; arguments and errors are those of `stream`."""
    more: Any = {"max_new_tokens": max_new_tokens, "stride": stride, "draft": draft}
    if "cached" in options:
        more["cached"] = options.pop("cached")
    sampling = with_options("generate", sampling, options)
    pieces = stream(model, tokenizer, prompt, sampling=sampling, **more)
    pieces._rates = False
    return "".join(pieces)


def stream(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    *,
    max_new_tokens: int,
    sampling: Sampling = DEFAULT_SAMPLING,
    stride: int = 1,
    draft: LanguageModel | None = None,
    **options: Any,
) -> "TextStream":
    """Return an iterator over the text that follows a prompt, in pieces, each as soon as its tokens are sampled.

    The model is given the last context_length tokens of the prompt and of the text written since; an empty prompt
    stands for a line end, or for token 0 where the vocabulary has none. A prompt may also be the ids of one, which can
    begin with a token that no text is encoded as. The model runs in `eval()`, and between the pieces it is in the mode
    it was in; its weights must stay as they are.

    sampling: how tokens are chosen, and the texts and tokens that end the generation, of which the one that is complete
    first counts; it is not part of the text. The tokens of the prompt and of the text count as seen. stride: how many
    tokens the window moves at once past the end of the context, see `decode.window_start`. draft: a smaller model of
    the same vocabulary that guesses tokens, which the model then reads together; the text is the same and may come
    sooner, see `speculative`. options: fields of `sampling`, temperature=0.5; and cached=False, which keeps no keys and
    values: the text is the same, and everything is read anew for each token.

    Raises, at the call: RangeError for an option or a token outside its range, VocabularyError for a character of the
    prompt that the tokenizer lacks, ConfigError for a tokenizer with more tokens than the model, for a draft of another
    vocabulary, and for an unknown option.
    """
    cached = options.pop("cached", True)
    sampling = with_options("stream", sampling, options)
    max_new_tokens = check_generation(model, tokenizer, max_new_tokens, sampling.stop_ids)
    context = context_of(tokenizer, prompt)
    stops, keys = StopTexts(sampling.stop), Generator(sampling.seed, SAMPLING)
    how: Any = {"longest": len(context) + max_new_tokens, "vocab_size": tokenizer.vocab_size, "cached": cached}
    reader = reader_of(model, draft, sampling, keys, stride=stride, **how)

    def tokens() -> Iterator[tuple[int, float]]:
        for _ in range(max_new_tokens):
            logits = reader.read([context])[0, : tokenizer.vocab_size]
            given: Any = (logits, sampling, context)
            token, rating = sample(*given, key=keys.next()) if pieces._rates else (choose(*given, key=keys.next()), nan)
            if token in sampling.stop_ids:
                pieces.ended = True
                return
            context.append(token)
            yield token, rating

    pieces = TextStream(tokens(), WholeCharacters(tokenizer, context), stops, reader)
    return pieces


class TextStream(Iterator[str]):
    """An iterator over pieces of text that also records the tokens they are made of.

    ids: the tokens sampled so far. log_probabilities: of each token, see `sample`. times: when each was sampled, in
    seconds. ended: whether the model wrote an end token, which is not among the ids.
    """

    _rates: bool = True  # whether the log-probabilities are computed; `generate` returns none

    def __init__(
        self,
        tokens: Iterator[tuple[int, float]],
        characters: WholeCharacters,
        stops: StopTexts,
        reader: Any = None,
    ) -> None:
        self.ids: list[int] = []
        self.log_probabilities: list[float] = []
        self.times: list[float] = []
        self.ended = False
        self._stops = stops
        self._speculative = reader if isinstance(reader, SpeculativeReader) else None
        self._pieces = self._run(tokens, characters)

    @property
    def stopped(self) -> bool:
        """Return whether a stop text ended the generation."""
        return self._stops.found

    @property
    def drafted(self) -> int:
        """Return how many tokens a draft guessed; 0 without a draft."""
        return 0 if self._speculative is None else self._speculative.drafted

    @property
    def accepted(self) -> int:
        """Return how many of the drafted tokens the model wrote too."""
        return 0 if self._speculative is None else self._speculative.accepted

    @property
    def tokens_per_second(self) -> float | None:
        """Return the rate after the first token, which includes reading the prompt; None for fewer than two tokens."""
        return (len(self.times) - 1) / (self.times[-1] - self.times[0]) if len(self.times) > 1 else None

    def __next__(self) -> str:
        return next(self._pieces)

    def _run(self, tokens: Iterator[tuple[int, float]], characters: WholeCharacters) -> Iterator[str]:
        for token, log_probability in tokens:
            self.ids.append(token)
            self.log_probabilities.append(log_probability)
            self.times.append(perf_counter())
            if piece := self._stops.feed(characters.feed(token)):
                yield piece
            if self._stops.found:
                return
        if rest := self._stops.feed(characters.flush()) + self._stops.flush():
            yield rest


def check_generation(
    model: LanguageModel, tokenizer: Tokenizer, max_new_tokens: int, stop_ids: Sequence[int] = ()
) -> int:
    """Return the number of tokens as an int.

    Raises RangeError for one that is negative or not whole, and for stop_ids beyond the vocabulary; ConfigError for a
    tokenizer of another model. A model may have more rows than there are tokens, where a matrix was padded; those are
    never sampled.
    """
    max_new_tokens = check_count("stream", "max_new_tokens", max_new_tokens)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ConfigError(
            f"stream: every token has a row in the model, but the tokenizer has {tokenizer.vocab_size} tokens and the "
            f"model {model.config.vocab_size} rows. Use the tokenizer that the model was trained with."
        )
    _checked(tokenizer, stop_ids, least=0)
    return max_new_tokens


def context_of(tokenizer: Tokenizer, prompt: str | Sequence[int]) -> list[int]:
    """Return the ids of a prompt, a text or ids; see `stream`."""
    return start_of(tokenizer, prompt) if isinstance(prompt, str) else _checked(tokenizer, prompt)


def _checked(tokenizer: Tokenizer, ids: Sequence[int], least: int = 1) -> list[int]:
    """Return ids as a list. Raises RangeError for too few, or one that no token has."""
    given = np.asarray(ids)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise RangeError(
            f"stream: a prompt is a text, or the ids of one, got {type(ids).__name__}. For several prompts use "
            "generate_batch."
        )
    listed = [int(token) for token in given]
    if len(listed) < least or not all(0 <= token < tokenizer.vocab_size for token in listed):
        raise RangeError(
            f"stream: the ids of a prompt, of which there is at least one, and stop_ids lie in "
            f"[0, {tokenizer.vocab_size}), the vocabulary, got {listed[:8]}."
        )
    return listed


def start_of(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Return the ids of a prompt; of an empty prompt, those of a line end, or token 0."""
    ids: list[int] = tokenizer.encode(prompt).tolist()
    if ids:
        return ids
    try:
        return tokenizer.encode("\n").tolist() or [0]
    except VocabularyError:
        return [0]
