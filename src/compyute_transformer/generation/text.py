"""Text from a model: read the prompt, draw one token after the other, hand out their text.

prompt -> ids -> prefill -> logits -> sample -> id -> text, once it is whole and holds no part of a stop text
                    step <-----------------------+
"""

from collections.abc import Iterator, Sequence
from time import perf_counter

from ..data.text.tokenizer import Tokenizer
from ..errors import ConfigError, RangeError, VocabularyError
from ..models.language import LanguageModel
from ..random import SAMPLING, Generator
from .decode import Reader
from .detokenize import StopTexts, WholeCharacters
from .sampling import check_sampling, sample

__all__ = ["TextStream", "check_generation", "generate", "start_of", "stream"]


def generate(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    stride: int = 1,
    cached: bool = True,
) -> str:
    """The text that follows a prompt, without the prompt. See `stream`, whose pieces it joins."""
    return "".join(
        stream(
            model,
            tokenizer,
            prompt,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop,
            stride=stride,
            cached=cached,
        )
    )


def stream(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    stride: int = 1,
    cached: bool = True,
) -> "TextStream":
    """The text that follows a prompt, in pieces, each as soon as it is drawn.

    The model sees the last context_length tokens of the prompt and of what it has written since; an empty prompt
    stands for a line end, or for token 0 where the vocabulary has none. It runs in `eval()`, and between the pieces it
    is in whatever mode it was; its weights must stay as they are.

    temperature, top_k, top_p, min_p, repetition_penalty: see `sample.probabilities`; tokens of the prompt and of the
    text count as seen. seed: equal seeds give equal texts. stop: texts at which generation ends, the one that is
    complete first; nothing of it is handed out. stride: how many tokens the window moves at once when the text is longer
    than the context, see `read.window_start`: 1 shows the most, more is faster. cached False: everything is read anew
    for each token, which gives the same text slowly.

    Raises, at the call, RangeError for an option outside its range, VocabularyError for a character of the prompt that
    the tokenizer lacks, ConfigError for a tokenizer with more tokens than the model.
    """
    check_sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    check_generation(model, tokenizer, max_new_tokens)
    stops, draws, context = StopTexts(stop), Generator(seed, SAMPLING), start_of(tokenizer, prompt)
    reader = Reader(model, stride, cached, longest=len(context) + max_new_tokens)

    def tokens() -> Iterator[tuple[int, float]]:
        for _ in range(max_new_tokens):
            logits = reader.read([context])[0, : tokenizer.vocab_size]
            token, log_probability = sample(
                logits, temperature, top_k, top_p, min_p, repetition_penalty, context, key=draws.next()
            )
            context.append(token)
            yield token, log_probability

    return TextStream(tokens(), WholeCharacters(tokenizer, context), stops)


class TextStream(Iterator[str]):
    """An iterator over pieces of text that also knows how they came about.

    ids: the tokens drawn so far. log_probabilities: of each, see `sample`. times: when each was drawn, in seconds.
    ended: whether the model itself said that this was all, which only translations do.
    """

    def __init__(self, tokens: Iterator[tuple[int, float]], characters: WholeCharacters, stops: StopTexts) -> None:
        self.ids: list[int] = []
        self.log_probabilities: list[float] = []
        self.times: list[float] = []
        self.ended = False
        self._stops = stops
        self._pieces = self._run(tokens, characters)

    @property
    def stopped(self) -> bool:
        """Whether a stop text ended it."""
        return self._stops.found

    @property
    def tokens_per_second(self) -> float | None:
        """How fast tokens follow the first, for which the prompt is read and kernels are loaded. None for one token."""
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


def check_generation(model: LanguageModel, tokenizer: Tokenizer, max_new_tokens: int) -> None:
    """Raise RangeError for a number of tokens that is negative or not whole, ConfigError for too many kinds of tokens.

    A model may have more rows than there are tokens, where a matrix was made even; those are never drawn.
    """
    if not isinstance(max_new_tokens, int) or max_new_tokens < 0:
        raise RangeError(f"stream: max_new_tokens is a whole number of at least 0, got {max_new_tokens}.")
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ConfigError(
            f"stream: every token has a row in the model, but the tokenizer has {tokenizer.vocab_size} tokens and the "
            f"model {model.config.vocab_size} rows. Use the tokenizer that the model was trained with."
        )


def start_of(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids of a prompt; those that an empty one stands for."""
    ids: list[int] = tokenizer.encode(prompt).tolist()
    if ids:
        return ids
    try:
        return tokenizer.encode("\n").tolist() or [0]
    except VocabularyError:
        return [0]
