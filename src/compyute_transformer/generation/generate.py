"""Text from a model: read the prompt, draw one token after the other, hand out their text.

prompt -> ids -> prefill -> logits -> sample -> id -> text, once it is whole and holds no part of a stop text
                    step <-----------------------+
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

import numpy as np

from ..backend import Array, to_device
from ..data.tokenizer import Tokenizer
from ..errors import ConfigError, RangeError, VocabularyError
from ..models.gpt import GPT
from ..nn.module import Module
from ..random import SAMPLING, Generator
from .pieces import StopTexts, WholeCharacters
from .sample import check_sampling, sample

__all__ = ["TextStream", "evaluating", "generate", "prefill", "step", "stream"]


def generate(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop: Sequence[str] = (),
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
            seed=seed,
            stop=stop,
        )
    )


def stream(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop: Sequence[str] = (),
) -> "TextStream":
    """The text that follows a prompt, in pieces, each as soon as it is drawn.

    The model sees the last context_length tokens of the prompt and of what it has written since; an empty prompt
    stands for a line end, or for token 0 where the vocabulary has none. It runs in `eval()`, and between the pieces it
    is in whatever mode it was.

    temperature, top_k, top_p: see `sample.probabilities`. seed: equal seeds give equal texts. stop: texts at which
    generation ends, the one that is complete first; nothing of it is handed out.

    Raises, at the call, RangeError for an option outside its range, VocabularyError for a character of the prompt that
    the tokenizer lacks, ConfigError for a tokenizer with more tokens than the model.
    """
    check_sampling(temperature, top_k, top_p)
    if max_new_tokens < 0:
        raise RangeError(f"stream: max_new_tokens is at least 0, got {max_new_tokens}.")
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ConfigError(
            f"stream: every token has a row in the model, but the tokenizer has {tokenizer.vocab_size} tokens and the "
            f"model {model.config.vocab_size} rows. Use the tokenizer that the model was trained with."
        )
    stops, draws = StopTexts(stop), Generator(seed, SAMPLING)
    context: list[int] = tokenizer.encode(prompt).tolist() or _start(tokenizer)

    def tokens() -> Iterator[tuple[int, float]]:
        token: int | None = None
        for _ in range(max_new_tokens):
            logits = prefill(model, context) if token is None else step(model, context, token)
            logits = logits[: tokenizer.vocab_size]  # a matrix made even has more rows than there are tokens
            token, log_probability = sample(logits, temperature, top_k, top_p, draw=draws.next())
            yield token, log_probability

    return TextStream(tokens(), WholeCharacters(tokenizer, context), stops)


class TextStream(Iterator[str]):
    """An iterator over pieces of text that also knows how they came about.

    ids: the tokens drawn so far. log_probabilities: of each, see `sample`. times: when each was drawn, in seconds.
    """

    def __init__(self, tokens: Iterator[tuple[int, float]], characters: WholeCharacters, stops: StopTexts) -> None:
        self.ids: list[int] = []
        self.log_probabilities: list[float] = []
        self.times: list[float] = []
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


def prefill(model: GPT, context: list[int]) -> Array:
    """Logits (V,) of the token that follows a context, of which the model reads the last context_length tokens."""
    window = np.array([context[-model.config.context_length :]], dtype=np.int32)
    with evaluating(model):
        return model(to_device(window, model.device))[0, -1]


def step(model: GPT, context: list[int], token: int) -> Array:
    """Put a token behind a context; logits (V,) of the one that follows. The whole window is read anew."""
    context.append(token)
    return prefill(model, context)


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Within a `with` block the model is in `eval()`; then every module is in the mode it was in."""
    modes = [(module, module.training) for _, module in model.named_modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _start(tokenizer: Tokenizer) -> list[int]:
    """What an empty prompt stands for."""
    try:
        return tokenizer.encode("\n").tolist() or [0]
    except VocabularyError:
        return [0]
