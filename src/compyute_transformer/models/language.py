"""What every decoder-only language model is, whatever it is built of: all that generation and training know of it.

And the checks and switches that other models share with it.
"""

from collections.abc import Sequence
from typing import Protocol

from ..arrays import Array, array_module
from ..errors import ConfigError, RangeError, ShapeError
from ..nn.attention import AttentionCache, Implementation, MultiHeadAttention
from ..nn.embedding import Embedding
from ..nn.module import Module
from ..ops.attention import Mask
from ..random import Generator

__all__ = [
    "LanguageConfig",
    "LanguageModel",
    "check_context",
    "check_evaluating",
    "check_ids",
    "padded",
    "use_attention",
]


class LanguageConfig(Protocol):
    """What is asked of the configuration of a language model."""

    @property
    def vocab_size(self) -> int:
        """V, the number of rows of the embedding."""
        ...

    @property
    def context_length(self) -> int:
        """The most positions that the model sees."""
        ...

    @property
    def embed_dim(self) -> int:
        """C, the width."""
        ...

    @property
    def num_heads(self) -> int:
        """H, of each attention."""
        ...

    @property
    def num_kv_heads(self) -> int | None:
        """K, of each attention; None means num_heads."""
        ...

    @property
    def num_layers(self) -> int:
        """How many blocks, and so how many caches."""
        ...


class LanguageModel(Module):
    """Ids (B, T) in, logits (B, T, V) of what follows each position out; position t sees positions up to t only.

    config: its shape. generator: where dropout draws; part of the state of a run. mask: which keys each query sees.
    """

    config: LanguageConfig
    generator: Generator
    mask: Mask
    token_embedding: Embedding

    def next_logits(
        self,
        ids: Array,
        caches: Sequence[AttentionCache] | None = None,
        start: int = 0,
        padding: Array | None = None,
    ) -> Array:
        """Logits (B, V) of the token that follows the last of ids (B, T): the last position of `forward`, in eval().

        caches: one for each block, which hold the `start` positions before ids, and then those of ids too.
        padding: (B) integers: how many positions at the start of each row are no text. They are hidden, and a row's
        positions count from its first token.

        Raises ConfigError in training, for nothing is saved; else as `forward`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no next_logits")

    def use_attention(self, implementation: Implementation) -> None:
        """Switch every block's attention algorithm; the weights stay."""
        use_attention(self, implementation)


def use_attention(model: Module, implementation: Implementation) -> None:
    """Switch the algorithm of every attention in a model; the weights stay."""
    for module in model.modules():
        if isinstance(module, MultiHeadAttention):
            module.implementation = implementation


def padded(ids: Array, padding: Array, start: int, mask: Mask) -> tuple[Array, Mask]:
    """Rows that begin with padding (B): each position's place in its own text, and a mask that hides what is none.

    ids: (B, T), the positions from `start` on. Places are (B, T) integers, 0 in padding.
    """
    xp, end = array_module(ids), start + ids.shape[1]
    places = xp.maximum(xp.arange(start, end) - padding[:, None], 0)
    return places, mask._replace(array=(xp.arange(end) >= padding[:, None])[:, None, None, :])


def check_ids(model: str, name: str, ids: Array) -> None:
    """Refuse ids that are no array of shape (B, T) with T at least 1."""
    shape = getattr(ids, "shape", None)
    if shape is None or len(shape) != 2 or shape[1] == 0:
        raise ShapeError(
            f"{model}: {name} are an integer array of shape (B, T) with T at least 1, got "
            f"{type(ids).__name__ if shape is None else tuple(shape)}."
        )


def check_context(model: str, name: str, ids: Array, context_length: int, start: int = 0) -> None:
    """Refuse positions past the context: sinusoids go on for ever, but nothing was trained there."""
    T = ids.shape[1]
    if not 0 <= start <= context_length - T:
        raise RangeError(
            f"{model}: positions of {name} lie in [0, {context_length}), the context length, got {T} positions from "
            f"{start} on. Shorten the input, or build the model with a longer context_length."
        )


def check_evaluating(model: Module) -> None:
    """Refuse a model in training where nothing is saved for a backward."""
    if model.training:
        name = type(model).__name__
        raise ConfigError(f"{name}.next_logits: it serves in eval() only, got a model in training. Call model.eval().")
