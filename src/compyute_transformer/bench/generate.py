"""Generate: measure tokens a second of generation, in three kinds of weights, beside transformers and llama.cpp.

Products are in float32 beside weights in float32, and in bfloat16 beside weights in bfloat16 and int8: transformers'
are so beside weights in bfloat16, and llama.cpp rounds to 8 bits what it multiplies with those of 8 bits.

    prompt      the time until the first new token: the whole prompt is read at once
    generate    the time of the whole text
    decode      the rate of the tokens after the first: the difference of the two

All candidates decode greedily, and must have the same logits after the prompt. The model is a preset with random
weights, or one that was published.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..arrays import Device
from ..environment.conditions import survey, use_threads_of
from ..errors import CompyuteError, ConfigError, RangeError
from ..exchange import Pretrained, save_pretrained
from ..models.gpt import GPT
from ..nn.quantize import quantize_weights
from .candidates import Report, alternate
from .workload import workload
from .writers import Writer, check_writers, has_llama, has_transformers, llama_writer, our_writer, their_writer

__all__ = ["WEIGHTS", "Texts", "bench_generate"]

PRESET, WEIGHTS = "shakespeare", ("float32", "bfloat16", "int8")
NO_TRANSFORMERS = (
    "Hugging Face's transformers is not installed, so it was left out: pip install transformers, beside torch"
)
NO_LLAMA = "llama.cpp was left out, which is not installed: pip install llama-cpp-python"
NO_GGUF = "llama.cpp was left out, as there is no GGUF file of this model: give a published Llama or its .gguf file"
ONE_TEXT = "llama.cpp was left out where several texts are written at once"


@dataclass(frozen=True)
class Texts:
    """What is written. None: half the context of the model.

    batch_sizes: how many texts at once, one after the other. weights: of our models, float32 always among them, which
    the others are compared with. anew: also time generation without a cache, which processes the whole text for each
    token.
    """

    prompt_tokens: int | None = None
    new_tokens: int | None = None
    batch_sizes: tuple[int, ...] = (1,)
    weights: tuple[str, ...] = WEIGHTS
    anew: bool = True
    device: Device = "cpu"


def bench_generate(
    size: str | None = None,
    overrides: Mapping[str, object] | None = None,
    texts: Texts | None = None,
    rounds: int = 5,
    path: str | Path | None = None,
) -> Report:
    """Write texts of random ids, with each kind of weights, and by other libraries where they are installed.

    path: a published model in place of a preset: a directory of Hugging Face Transformers, a GGUF file, or a package
    with one inside. size and overrides are of a preset.

    Raises ConfigError for unknown weights and for sizes of a published model, RangeError for a text beyond the context.
    """
    texts = texts or Texts()
    _check(texts, path, {**({} if size is None else {"preset": size}), **(overrides or {})})
    if has_transformers():
        import torch  # noqa: F401  first, so that its threads begin with its own settings, not with ours
    environment, warnings = survey(texts.device)
    if has_transformers():
        use_threads_of(environment)
    report = Report(f"Generation, {path or size or PRESET}", environment, "tokens/s", warnings=warnings)
    load = _published(path) if path is not None else _random(size or PRESET, overrides)
    models = {kind: load(kind) for kind in _kinds(texts, report)}
    config = models["float32"].config
    prompt, new = _lengths(texts, config.context_length)
    name = "" if path is None else f"{Path(path).name}: "
    with TemporaryDirectory() as folder:
        folders = _for_others(Path(folder), path, models, report)
        for batch_size in texts.batch_sizes:
            prompts = np.random.default_rng(11).integers(0, config.vocab_size, (batch_size, prompt)).tolist()
            writers = [our_writer(model.to(texts.device), prompts, kind) for kind, model in models.items()]
            if texts.anew:
                writers.insert(1, our_writer(models["float32"], prompts, "anew", cached=False))
            writers += _others(folders, prompts, prompt + new, environment.threads)
            if folders.gguf and batch_size > 1 and ONE_TEXT not in report.notes:
                report.notes.append(ONE_TEXT)
            check_writers(writers, new)
            shape = (
                f"{name}{prompt} tokens read, {new} written, B {batch_size}, C {config.embed_dim}, "
                f"{config.num_heads} heads, {config.num_layers} blocks, V {config.vocab_size}"
            )
            _time(report, shape, writers, (prompt, new, batch_size), rounds)
    return report


def _check(texts: Texts, path: str | Path | None, sizes: Mapping[str, object]) -> None:
    """Raise ConfigError for unknown weights, and for sizes that a published model would not heed."""
    if path is not None and sizes:
        given = ", ".join(f"--{name.replace('_', '-')}" for name in sizes)
        raise ConfigError(
            f"bench generate: a published model has its own sizes, got {given}. Leave out one of the two."
        )
    for name in texts.weights:
        if name not in WEIGHTS:
            raise ConfigError(f"bench generate: weights are some of {', '.join(WEIGHTS)}, got {name!r}.")


def _time(report: Report, shape: str, writers: list[Writer], sizes: tuple[int, int, int], rounds: int) -> None:
    prompt, new, batch_size = sizes
    to_first = alternate([writer.candidate(1) for writer in writers if writer.mode != "anew"], rounds, warm_up=1)
    report.add_times("prompt", shape, to_first)
    report.add_rates("prompt", shape, to_first, prompt * batch_size, "tokens/s")
    if new == 1:
        return
    whole = alternate([writer.candidate(new) for writer in writers], rounds, warm_up=0)
    report.add_times("generate", shape, whole)
    report.add_rates("generate", shape, whole, new * batch_size, "tokens/s")
    seconds = {candidate.name: times for candidate, times in whole.items()}
    after = {
        first: [max(both - one, 1e-9) for both, one in zip(seconds[first.name], times, strict=True)]
        for first, times in to_first.items()
    }
    report.add_rates("decode", shape, after, (new - 1) * batch_size, "tokens/s")


# --- the models ---


def _kinds(texts: Texts, report: Report) -> list[str]:
    """Return the kinds of weights, float32 first; on a GPU it alone."""
    if texts.device != "cpu":
        report.notes.append("Weights in bfloat16 and int8 are for CPUs and were left out.")
    return ["float32", *(kind for kind in WEIGHTS[1:] if kind in texts.weights and texts.device == "cpu")]


def _random(size: str, overrides: Mapping[str, object] | None) -> Callable[[str], Any]:
    """Return a function that makes a preset's GPT with random weights, the same for each kind."""
    config = workload(size, {**(overrides or {}), "dropout": 0.0, "bias": True}).config  # GPT-2 has biases
    model = GPT(config).eval()

    def load(kind: str) -> Any:
        if kind == "float32":
            return model
        quantized = deepcopy(model)
        quantize_weights(quantized, kind)  # type: ignore[arg-type]
        return quantized

    return load


def _published(path: str | Path) -> Callable[[str], Any]:
    return lambda kind: Pretrained(path, weights=None if kind == "float32" else kind).model  # type: ignore[arg-type]


def _lengths(texts: Texts, context_length: int) -> tuple[int, int]:
    half = max(1, context_length // 2)
    prompt, new = texts.prompt_tokens or half, texts.new_tokens or half
    if prompt + new > context_length:
        raise RangeError(
            f"bench generate: prompt and text must fit the context of {context_length} tokens, got {prompt} and {new}. "
            "Choose fewer --prompt-tokens or --new-tokens."
        )
    return prompt, new


# --- the others ---


@dataclass(frozen=True)
class Folders:
    """Where the model lies for other libraries; None where it does not. gguf: files by the names of their modes."""

    directory: Path | None
    gguf: dict[str, Path]


def _for_others(folder: Path, path: str | Path | None, models: dict[str, Any], report: Report) -> Folders:
    """Write the model as others read it, where they are installed."""
    directory, files = None, {}
    opened = None if path is None else Pretrained(path)
    if not has_transformers():
        report.notes.append(NO_TRANSFORMERS)
    elif opened is None or opened.path.is_file():
        save_pretrained(models["float32"], directory := folder / "model")
    else:
        directory = opened.path
    if not has_llama():
        report.notes.append(NO_LLAMA)
    elif opened is not None and opened.is_gguf:
        files = {"its file": opened.path}
    elif opened is not None:
        with suppress(CompyuteError):  # no Llama, or a tokenizer that the format does not have
            for kind in ("float16", "q8_0"):
                opened.save(file := folder / f"{kind}.gguf", dtype=kind)
                files[kind] = file
    if has_llama() and not files:
        report.notes.append(NO_GGUF)
    return Folders(directory, files)


def _others(folders: Folders, prompts: list[list[int]], longest: int, threads: int) -> Iterator[Writer]:
    if folders.directory is not None:
        for mode in ("float32", "bfloat16"):
            yield their_writer(folders.directory, prompts, mode)
    for mode, file in folders.gguf.items() if len(prompts) == 1 else ():
        yield llama_writer(file, prompts[0], mode, longest, threads)
