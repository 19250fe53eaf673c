"""Pictures of the attention of a prompt and of a translation, as `compyute generate --attention` writes them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..arrays import to_device
from ..data.pairs.batches import special_tokens
from ..data.text.tokenizer import Tokenizer
from ..models.language import LanguageModel
from ..models.transformer import Transformer
from ..plotting import plot_attention, save_figure
from .attention import attention_maps, named_attention_maps, token_labels
from .text import start_of

__all__ = ["save_prompt_attention", "save_translation_attention"]


def save_prompt_attention(model: LanguageModel, tokenizer: Tokenizer, prompt: str, path: Path) -> None:
    """Write the attention of a prompt, of its last context_length tokens, to a picture.

    Raises as `start_of`, `plot_attention` and `save_figure`.
    """
    ids = start_of(tokenizer, prompt)[-model.config.context_length :]
    maps = attention_maps(model, to_device(np.array([ids], np.int32), model.device))
    save_figure(plot_attention(maps, token_labels(tokenizer, ids)), path)


def save_translation_attention(
    model: Transformer, tokenizer: Tokenizer, source: str, translation: Sequence[int], path: Path
) -> list[Path]:
    """Write the attention of a translation to three pictures: within the source, within the target, and between them.

    translation: its ids, of which as many are shown as the context has room for behind BEGIN. The files stand beside
    `path`: NAME-encoder.png, NAME-decoder.png and NAME-cross.png. Raises as `named_attention_maps` and `save_figure`.
    """
    special, known = special_tokens(tokenizer), tokenizer.encode(source).tolist()
    written = list(translation)[: model.config.context_length - 1]
    rows = [*known, special.end], [special.begin, *written]
    maps = named_attention_maps(model, *(to_device(np.array([row], np.int32), model.device) for row in rows))
    sources = [*token_labels(tokenizer, known), "END"]
    targets = ["BEGIN", *token_labels(tokenizer, written)]
    parts = {
        "encoder": ("encoder.", ".attention", sources, sources),
        "decoder": ("decoder.", ".attention", targets, targets),
        "cross": ("decoder.", ".cross_attention", sources, targets),
    }
    files = []
    for name, (start, end, keys, queries) in parts.items():
        chosen = [array for place, array in maps.items() if place.startswith(start) and place.endswith(end)]
        files.append(path.with_name(f"{path.stem}-{name}{path.suffix}"))
        save_figure(plot_attention(chosen, keys, query_labels=queries), files[-1])
    return files
