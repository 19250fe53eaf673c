"""Generate: tokens a second of a model that writes, with its cache of keys and values and without.

Both write the same text, or the race is refused. The prompt is read anew in each run, and its time counts.
"""

from collections.abc import Mapping
from functools import partial
from string import ascii_letters

from ..data.characters import CharacterTokenizer
from ..errors import ParityError, RangeError
from ..generation.generate import generate
from ..models.gpt import GPT
from .ground import survey
from .race import Contestant, Report, alternate
from .workload import workload

__all__ = ["bench_generate"]


def bench_generate(
    size: str = "shakespeare",
    overrides: Mapping[str, object] | None = None,
    prompt_tokens: int | None = None,
    new_tokens: int | None = None,
    rounds: int = 5,
) -> Report:
    """Write `new_tokens` after a prompt of `prompt_tokens`, by default half a context each, with random weights."""
    config = workload(size, {**(overrides or {}), "dropout": 0.0}).config
    half = max(1, config.context_length // 2)
    prompt_tokens, new_tokens = prompt_tokens or half, new_tokens or half
    if prompt_tokens + new_tokens > config.context_length:
        raise RangeError(
            f"bench generate: prompt and text fit the context of {config.context_length} tokens, got "
            f"{prompt_tokens} and {new_tokens}. Beyond it the window moves, and that is another race."
        )
    ground, warnings = survey()
    report = Report(f"Generation, {size}", ground, "tokens/s", warnings=warnings)
    model, tokenizer = GPT(config), CharacterTokenizer.train(ascii_letters)
    prompt = (ascii_letters * (prompt_tokens // len(ascii_letters) + 1))[:prompt_tokens]
    modes = {"cached": True, "anew": False}
    write = partial(generate, model, tokenizer, prompt, max_new_tokens=new_tokens, temperature=1.0)
    contestants = [Contestant("compyute", mode, partial(write, cached=cached)) for mode, cached in modes.items()]
    first, *others = [contestant.run() for contestant in contestants]
    if any(text != first for text in others):
        raise ParityError(
            "bench generate: contestants write the same text before they are timed; with the cache it is another than "
            "without. Nothing was timed: one of the two is wrong."
        )
    shape = (
        f"{prompt_tokens} tokens read, {new_tokens} written, C {config.embed_dim}, {config.num_heads} heads, "
        f"{config.num_layers} blocks, V {config.vocab_size}"
    )
    raced = alternate(contestants, rounds, warm_up=0)
    report.add_times("generate", shape, raced)
    report.add_rates("generate", shape, raced, new_tokens, "tokens/s")
    return report
