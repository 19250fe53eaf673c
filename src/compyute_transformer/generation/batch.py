"""Several prompts at once: one pass of the model serves them all, and each gets exactly the tokens it gets alone."""

from collections.abc import Sequence

from ..data.text.tokenizer import Tokenizer
from ..errors import RangeError
from ..models.language import LanguageModel
from ..random import SAMPLING, Generator
from .decode import Reader
from .detokenize import StopTexts, WholeCharacters
from .sampling import check_sampling, sample
from .text import check_generation, start_of

__all__ = ["generate_batch"]


def generate_batch(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int | Sequence[int] = 0,
    stop: Sequence[str] = (),
    stride: int = 1,
    cached: bool = True,
) -> list[str]:
    """The texts that follow prompts, which may differ in length, as `generate` gives them one by one.

    Options are `stream`'s. seed: one for all prompts, or one for each. A text that has met a stop text leaves the
    batch. Prompts stand flush right; once the longest text is past the context's end, all are read anew whenever a
    window moves.

    Raises as `stream`, and RangeError for one text in place of several, or for other numbers of seeds and prompts.
    """
    check_sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    check_generation(model, tokenizer, max_new_tokens)
    if isinstance(prompts, str):
        raise RangeError("generate_batch: prompts are a sequence of texts, got one text. Use generate, or [prompt].")
    seeds = [seed] * len(prompts) if isinstance(seed, int) else list(seed)
    if len(seeds) != len(prompts):
        raise RangeError(f"generate_batch: one seed for all or one a prompt, got {len(seeds)} for {len(prompts)}.")
    rows = [_Row(tokenizer, prompt, seed, stop) for prompt, seed in zip(prompts, seeds, strict=True)]
    longest = max((len(row.ids) for row in rows), default=0) + max_new_tokens
    reader = Reader(model, stride, cached, longest)
    for _ in range(max_new_tokens):
        writing = [row for row in rows if not row.stops.found]
        if not writing:
            break
        logits = reader.read([row.ids for row in writing])[:, : tokenizer.vocab_size]
        for row, row_logits in zip(writing, logits, strict=True):
            row.take(
                sample(
                    row_logits,
                    temperature,
                    top_k,
                    top_p,
                    min_p,
                    repetition_penalty,
                    row.ids,
                    key=row.draws.next(),
                )[0]
            )
    return [row.finish() for row in rows]


class _Row:
    """One text of a batch. ids: of the prompt and of what was written."""

    def __init__(self, tokenizer: Tokenizer, prompt: str, seed: int, stop: Sequence[str]) -> None:
        self.ids = start_of(tokenizer, prompt)
        self.draws, self.stops = Generator(seed, SAMPLING), StopTexts(stop)
        self._characters = WholeCharacters(tokenizer, self.ids)
        self._text = ""

    def take(self, token: int) -> None:
        self.ids.append(token)
        self._text += self.stops.feed(self._characters.feed(token))

    def finish(self) -> str:
        if self.stops.found:
            return self._text
        return self._text + self.stops.feed(self._characters.flush()) + self.stops.flush()
