"""Writers: ours, and other libraries with the same weights, which continue the same ids greedily.

ours            float32, or the matrices in bfloat16 or int8; or without a cache
transformers    a directory in its format, in float32 and bfloat16
llama.cpp       a GGUF file, by llama-cpp-python
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from ..arrays import Array, to_numpy
from ..errors import ParityError
from ..generation.decode import Reader
from ..generation.ids import generate_ids
from ..ops.quantized import Weights
from .candidates import Candidate

__all__ = ["Writer", "check_writers", "has_llama", "has_transformers", "llama_writer", "our_writer", "their_writer"]

Ids = list[list[int]]

# Of the logits after the prompt, as a share of the largest: float32, and where weights are rounded to 8 bits.
EXACT, ROUNDED = 1e-4, 0.1


class Writer(NamedTuple):
    """write: returns the ids that follow the prompts, as many as it is given. logits: those after the first prompt."""

    provider: str
    mode: str
    write: Callable[[int], Ids]
    logits: Callable[[], Array]

    def candidate(self, count: int) -> Candidate:
        """Return the candidate that writes so many ids."""
        return Candidate(self.provider, self.mode, partial(self.write, count))


def check_writers(writers: list[Writer], count: int) -> None:
    """Raise ParityError unless all have the logits of the first, and ours without a cache writes as with one."""
    first, *others = writers
    expected = first.logits()
    for writer in others:
        limit = EXACT if writer.mode in ("float32", "anew") else ROUNDED
        if not (error := float(abs(writer.logits() - expected).max() / abs(expected).max())) <= limit:
            raise ParityError(
                f"bench generate: candidates must have the same logits before they are timed; those of "
                f"{writer.provider} {writer.mode} differ by {error:.2g} of the largest, more than {limit:g}. Nothing "
                "was timed: one of the two is wrong."
            )
        if writer.mode == "anew" and writer.write(count) != first.write(count):
            raise ParityError(
                "bench generate: ours must write the same ids with the cache and without before they are timed; they "
                "differ. Nothing was timed: one of the two is wrong."
            )


def our_writer(model: Any, prompts: Ids, mode: str, cached: bool = True) -> Writer:
    """Return our writer. cached: False processes the whole text for each id. mode: also says how it multiplies."""
    ids = np.array(prompts, np.int32)
    model.precision = "bfloat16" if mode in get_args(Weights) else "float32"

    def write(count: int) -> Ids:
        if cached:
            written = to_numpy(generate_ids(model, ids, max_new_tokens=count, temperature=0.0))
            return [row[ids.shape[1] :] for row in written.tolist()]
        reader, texts = Reader(model, cached=False), [list(row) for row in prompts]
        for _ in range(count):
            for text, token in zip(texts, to_numpy(reader.read(texts)).argmax(1).tolist(), strict=True):
                text.append(token)
        return [text[ids.shape[1] :] for text in texts]

    def logits() -> Array:
        found: Array = to_numpy(Reader(model, cached=cached).read(prompts[:1])[0])
        return found

    return Writer("compyute", mode, write, logits)


def has_transformers() -> bool:
    """Whether Hugging Face's transformers and torch are installed."""
    return find_spec("torch") is not None and find_spec("transformers") is not None


def their_writer(folder: Path, prompts: Ids, mode: str) -> Writer:
    """Return transformers' own `generate`, with its cache. mode: the dtype of its weights and of what it computes."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, mode)).eval()
    model.generation_config.eos_token_id = None  # ours ends where it was told to
    context = torch.tensor(prompts)

    def write(count: int) -> Ids:
        with torch.no_grad():
            written = model.generate(
                context,
                attention_mask=torch.ones_like(context),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                pad_token_id=0,
            )
        new: Ids = written[:, context.shape[1] :].tolist()
        return new

    def logits() -> Array:
        with torch.no_grad():
            found: Array = model(context[:1], logits_to_keep=1).logits[0, -1].float().numpy()
        return found

    return Writer("transformers", mode, write, logits)


def has_llama() -> bool:
    """Whether llama-cpp-python is installed."""
    return find_spec("llama_cpp") is not None


def llama_writer(file: Path, prompt: list[int], mode: str, longest: int, threads: int) -> Writer:
    """Return llama.cpp's writer of one text. longest: how many ids a text has at most."""
    library = import_module("llama_cpp")
    options = {"n_ctx": longest + 8, "n_batch": max(longest, 32), "n_threads": threads, "n_threads_batch": threads}
    model = library.Llama(str(file), verbose=False, **options)

    def write(count: int) -> Ids:
        model.reset()  # nothing of the text before is used again
        written: list[int] = []
        for token in model.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0):
            written.append(token)
            if len(written) == count:
                break
        return [written]

    def logits() -> Array:
        model.reset()
        model.eval(prompt)
        return np.array(library.llama_get_logits_ith(model.ctx, -1)[: model.n_vocab()], np.float32)

    return Writer("llama.cpp", mode, write, logits)
