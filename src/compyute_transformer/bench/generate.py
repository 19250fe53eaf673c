"""Generate: measure tokens a second of generation, with the cache, without, and beside Hugging Face's transformers.

All candidates decode greedily. If their texts differ, nothing is timed. The time of the prompt counts.
"""

from collections.abc import Mapping
from functools import partial

from ..arrays import Device
from ..data.text.characters import CharacterTokenizer
from ..environment.conditions import survey, use_threads_of
from ..errors import ParityError, RangeError
from ..generation.sampling import Sampling
from ..generation.text import generate
from ..models.gpt import GPT
from .candidates import Candidate, Report, alternate
from .transformers_gpt import NO_TRANSFORMERS, has_transformers, transformers_writer
from .workload import workload

__all__ = ["bench_generate"]


def bench_generate(
    size: str = "shakespeare",
    overrides: Mapping[str, object] | None = None,
    prompt_tokens: int | None = None,
    new_tokens: int | None = None,
    rounds: int = 5,
    anew: bool = True,
    device: Device = "cpu",
) -> Report:
    """Generate `new_tokens` after a prompt of `prompt_tokens`, by default half a context each, with random weights.

    anew: also time generation without a cache, which processes the whole text for each token.
    """
    config = workload(size, {**(overrides or {}), "dropout": 0.0, "bias": True}).config  # GPT-2 has biases
    half = max(1, config.context_length // 2)
    prompt_tokens, new_tokens = prompt_tokens or half, new_tokens or half
    if prompt_tokens + new_tokens > config.context_length:
        raise RangeError(
            f"bench generate: prompt and text must fit the context of {config.context_length} tokens, got "
            f"{prompt_tokens} and {new_tokens}. Choose fewer --prompt-tokens or --new-tokens."
        )
    with_transformers = has_transformers()
    if with_transformers:
        import torch  # noqa: F401  first, so that its threads begin with its own settings, not with ours
    environment, warnings = survey(device)
    if with_transformers:
        use_threads_of(environment)
    report = Report(f"Generation, {size}", environment, "tokens/s", warnings=warnings)
    model, tokenizer = GPT(config).eval().to(device), CharacterTokenizer.train(_characters(config.vocab_size))
    prompt = tokenizer.decode([token % config.vocab_size for token in range(prompt_tokens)])
    write = partial(generate, model, tokenizer, prompt, max_new_tokens=new_tokens, sampling=Sampling(temperature=0.0))
    candidates = [Candidate("compyute", "cached", partial(write, cached=True))]
    if anew:
        candidates.append(Candidate("compyute", "anew", partial(write, cached=False)))
    if with_transformers:
        theirs = transformers_writer(model, tokenizer.encode(prompt).tolist(), new_tokens)
        candidates.append(Candidate("transformers", "generate", lambda: tokenizer.decode(theirs())))
    else:
        report.notes.append(NO_TRANSFORMERS)
    first, *others = [(candidate, candidate.run()) for candidate in candidates]
    for candidate, text in others:
        if text != first[1]:
            raise ParityError(
                f"bench generate: all candidates must generate the same text before they are timed; {candidate.name} "
                f"generates another than {first[0].name}. Nothing was timed: one of the two is wrong."
            )
    shape = (
        f"{prompt_tokens} tokens read, {new_tokens} written, C {config.embed_dim}, {config.num_heads} heads, "
        f"{config.num_layers} blocks, V {config.vocab_size}"
    )
    times = alternate(candidates, rounds, warm_up=0)
    report.add_times("generate", shape, times)
    report.add_rates("generate", shape, times, new_tokens, "tokens/s")
    return report


def _characters(count: int) -> str:
    """Return as many characters as there are tokens, so that each token is one character."""
    surrogates = range(0xD800, 0xE000)  # which are no characters
    return "".join(chr(code) for code in range(0x20, 0x20 + count + len(surrogates)) if code not in surrogates)[:count]
