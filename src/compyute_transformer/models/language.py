"""LanguageModel: the base of decoder-only language models, and all that generation and training know of them.

It also holds the checks that other models share with it.
"""

from collections.abc import Iterable, Sequence
from importlib import import_module
from itertools import repeat
from typing import Any, Protocol

from ..arrays import Array, array_module
from ..errors import ConfigError, RangeError, ShapeError
from ..nn.attention import Implementation, MultiHeadAttention
from ..nn.embedding import Embedding
from ..nn.module import Module, ModuleList
from ..nn.position import check_evaluating
from ..ops._checks import check_array
from ..ops.attention import Mask
from ..random import Generator
from .output import Model

__all__ = [
    "LanguageConfig",
    "LanguageModel",
    "ModelCache",
    "block_caches",
    "check_context",
    "check_ids",
    "mask_padding",
    "use_attention",
]


class LanguageConfig(Protocol):
    """The fields that the configuration of every language model has."""

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


class ModelCache(Protocol):
    """What a model needs of a cache of keys and values; `generation.KeyValueCache` is one.

    length: how many positions it holds. padding: (B) integers, the positions at the start of each row that hold no
    token; None for none. blocks: the part of each block, an `AttentionCache`.
    """

    length: int
    padding: Array | None

    @property
    def blocks(self) -> Sequence[Any]:
        """The part of each block."""
        ...

    def advance(self, count: int) -> None:
        """Count positions that every block has appended."""
        ...


class LanguageModel(Model):
    """A decoder-only language model: position t attends to positions up to t.

        forward(ids, cache=None, *, padding=None, logits_to_keep=None, inputs_embeds=None) -> logits (B, T, V)

    The logits are of the token that follows each position of ids (B, T). cache: holds the positions before ids; those
    of ids are appended, and `cache.length` grows by T. padding: (B) integers, the number of positions at the start of
    each row that hold no token; they are masked, and a row counts its positions from its first token. With a cache, it
    is the cache's own `padding`. logits_to_keep: compute the logits of this many last positions only. All three are for
    `eval()`: nothing is saved for a backward. A call of the model also takes return_attention=True and
    return_hidden_states=True, and then returns a `ModelOutput`.

    inputs_embeds: vectors (B, T, C) in place of the embedded ids, which are then None: a soft prompt, or the vectors of
    `model.token_embedding(ids)`, changed. `backward` returns their gradient, and adds none to the token embedding.

    config: its configuration. generator: of the random numbers of dropout; part of the state of a run. mask: which keys
    each query attends to.

    Raises:
        ShapeError: ids are no array (B, T) with T at least 1. RangeError: an id outside the vocabulary, or a position
        past the context length. ConfigError: cache, padding or logits_to_keep in training.
    """

    config: LanguageConfig
    generator: Generator
    mask: Mask
    token_embedding: Embedding
    blocks: ModuleList

    def embed(
        self, ids: Array | None, start: int = 0, padding: Array | None = None, inputs_embeds: Array | None = None
    ) -> Array:
        """Return the residual stream (B, T, C) before the first block, of ids that begin at position `start`."""
        raise NotImplementedError(f"{type(self).__name__} has no embed")

    def look_up(self, ids: Array | None, inputs_embeds: Array | None) -> Array:
        """Return the vectors (B, T, C) of ids, or those that were given in their place."""
        return self.token_embedding(ids) if inputs_embeds is None else self.token_embedding.skip(inputs_embeds)

    def unembed(self, x: Array) -> Array:
        """Return the logits (B, T, V) of the residual stream (B, T, C) after the last block."""
        raise NotImplementedError(f"{type(self).__name__} has no unembed")

    def run_blocks(
        self, x: Array, cache: "ModelCache | None", padding: Array | None, logits_to_keep: int | None
    ) -> Array:
        """Return the stream after all blocks, at the last `logits_to_keep` positions; x (B, T, C) joins the cache."""
        T, start = x.shape[1], 0 if cache is None else cache.length
        mask = mask_padding(self.mask, padding, start + T)
        for block, block_cache in zip(self.blocks, block_caches(cache, self.blocks), strict=True):
            x = block(x, mask, block_cache)
        if cache is not None:
            cache.advance(T)
        return x if logits_to_keep is None else x[:, -logits_to_keep:]

    def check_forward(
        self,
        ids: Array | None,
        cache: "ModelCache | None",
        padding: Array | None,
        logits_to_keep: int | None,
        inputs_embeds: Array | None = None,
    ) -> tuple[int, Array | None]:
        """Raise for arguments that `forward` does not accept. Return the position of the first id, and the padding."""
        name = type(self).__name__
        if cache is not None and not hasattr(cache, "length"):  # model(ids, targets), as some GPTs are called
            raise ConfigError(
                f"{name}: the second argument is a cache of keys and values, got {type(cache).__name__}. Targets "
                "belong to the loss: nn.CrossEntropyLoss()(model(ids), targets)."
            )
        start = 0 if cache is None else cache.length
        if inputs_embeds is None:
            check_ids(name, "ids", ids)
        else:
            check_vectors(name, ids, inputs_embeds, self.config.embed_dim)
        given: Any = ids if inputs_embeds is None else inputs_embeds
        check_context(name, "ids", given, self.config.context_length, start)
        for option, value in (("cache", cache), ("padding", padding), ("logits_to_keep", logits_to_keep)):
            if value is not None:
                check_evaluating(name, option, self.training)
        if logits_to_keep is not None and not logits_to_keep >= 1:
            raise RangeError(f"{name}: logits_to_keep is at least 1, got {logits_to_keep}.")
        if cache is not None and padding is not None:
            raise ConfigError(f"{name}: with a cache, padding is that of the cache. Give it to cache.clear(padding).")
        if padding is not None:
            check_padding(name, padding, *given.shape[:2])
        return start, padding if cache is None else cache.padding

    def generate(
        self,
        ids: Array,
        *,
        max_new_tokens: int,
        sampling: Any = None,
        stride: int = 1,
        **options: Any,
    ) -> Array:
        """Return ids (B, T) or (T) followed by sampled ones; see `generation.generate_ids`.

        sampling: a `generation.Sampling`; options: single fields of it. `generation.generate` does the same for texts.
        """
        # loaded on use, by name: generation is built on models, and models work without it
        generation = import_module("compyute_transformer.generation")
        options |= {"max_new_tokens": max_new_tokens, "sampling": sampling, "stride": stride}
        generated: Array = generation.generate_ids(self, ids, **options)
        return generated

    def use_attention(self, implementation: Implementation) -> None:
        """Change the attention algorithm of every block; the weights stay."""
        use_attention(self, implementation)


def use_attention(model: Module, implementation: Implementation) -> None:
    """Change the algorithm of every attention in a model; the weights stay."""
    for module in model.modules():
        if isinstance(module, MultiHeadAttention):
            module.implementation = implementation


def check_padding(name: str, padding: Array, rows: int, width: int) -> None:
    """Raise for a padding that is no integer array (B) in [0, T]."""
    check_array(name, "padding", padding)
    if padding.shape != (rows,) or padding.dtype.kind not in "iu":
        raise ShapeError(
            f"{name}: padding holds an integer for each of the {rows} rows, got {padding.dtype} of shape "
            f"{padding.shape}."
        )
    if ((padding < 0) | (padding > width)).any():
        raise RangeError(f"{name}: padding lies in [0, {width}], the width of the ids, got {padding}.")


def mask_padding(mask: Mask, padding: Array | None, end: int) -> Mask:
    """Return a mask that also hides the first padding (B) of `end` keys in each row."""
    if padding is None:
        return mask
    xp = array_module(padding)
    return mask._replace(array=(xp.arange(end) >= padding[:, None])[:, None, None, :])


def block_caches(cache: "ModelCache | None", blocks: ModuleList) -> Iterable[Any]:
    """Return the part of a cache that belongs to each block; None for each without a cache."""
    if cache is not None and len(cache.blocks) != len(blocks):
        raise ShapeError(
            f"KeyValueCache: a cache has a part for each of the {len(blocks)} blocks, got one of {len(cache.blocks)}. "
            "Make a cache for this model: KeyValueCache(model, batch_size)."
        )
    return repeat(None, len(blocks)) if cache is None else cache.blocks


def check_vectors(model: str, ids: Any, vectors: Any, embed_dim: int) -> None:
    """Raise for vectors in place of embedded ids that are not (B, T, C) with T at least 1, or that come beside ids."""
    if ids is not None:
        raise ConfigError(f"{model}: inputs_embeds take the place of ids, got both. Give None as ids.")
    shape = getattr(vectors, "shape", None)
    if shape is None or len(shape) != 3 or shape[1] == 0 or shape[2] != embed_dim:
        raise ShapeError(
            f"{model}: inputs_embeds are an array of shape (B, T, {embed_dim}) with T at least 1, got "
            f"{type(vectors).__name__ if shape is None else tuple(shape)}."
        )


def check_ids(model: str, name: str, ids: Any) -> None:
    """Raise for ids that are no array of shape (B, T) with T at least 1."""
    shape = getattr(ids, "shape", None)
    if shape is None or len(shape) != 2 or shape[1] == 0:
        raise ShapeError(
            f"{model}: {name} are an integer array of shape (B, T) with T at least 1, got "
            f"{type(ids).__name__ if shape is None else tuple(shape)}."
        )


def check_context(model: str, name: str, ids: Any, context_length: int, start: int = 0) -> None:
    """Raise for positions past the context: sinusoids have no end, but a model was trained within its context only."""
    T = ids.shape[1]
    if not 0 <= start <= context_length - T:
        raise RangeError(
            f"{model}: positions of {name} lie in [0, {context_length}), the context length, got {T} positions from "
            f"{start} on. Shorten the input, or build the model with a longer context_length."
        )
