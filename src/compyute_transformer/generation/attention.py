"""Attention weights of a model as arrays, and what its tokens are called on an axis."""

from collections.abc import Sequence

from ..arrays import Array
from ..data.text.tokenizer import Tokenizer
from ..models.output import record_forward
from ..nn.module import Module, evaluating

__all__ = ["attention_maps", "named_attention_maps", "token_labels"]

LONGEST_LABEL = 12
WHITESPACE = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}


def attention_maps(model: Module, *inputs: Array | None) -> list[Array]:
    """Return the attention weights (B, H, T, S) of each attention of a model, in the order in which they run.

    inputs: those of the model's forward; for a language model ids (B, T), T at most context_length, and S = T. The
    weights of a query, a row, sum to one, and a masked key has exactly 0. The model runs in `eval()`, whatever mode it
    is in; `model(*inputs, return_attention=True)` returns the same in the mode that it is in.

    Raises as the model's forward, and ConfigError for an attention that does not tell its weights, see `models.output`.
    """
    return list(named_attention_maps(model, *inputs).values())


def named_attention_maps(model: Module, *inputs: Array | None) -> dict[str, Array]:
    """Return `attention_maps` by the path of each attention: "blocks.0.attention", "decoder.1.cross_attention"."""
    with evaluating():
        return record_forward(model, True, *inputs)[1].attentions


def token_labels(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Return the text of each token, short enough for an axis: whitespace is made visible, long tokens are cut."""
    texts = ("".join(WHITESPACE.get(c, c) for c in tokenizer.decode([token])) for token in ids)
    return [text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…" for text in texts]
