"""Transformer: an encoder of the source and a decoder of the target, as published (Vaswani et al. 2017).

source (B, S) -> encoder blocks -> memory (B, S, C)
target (B, T) -> decoder blocks, each attends to the memory -> logits (B, T, V) of the token after each position
"""

from dataclasses import dataclass
from math import sqrt
from typing import Any

from .._arguments import CheckedArguments
from ..arrays import Array, is_captured
from ..errors import DtypeError, RangeError, ShapeError
from ..nn import init
from ..nn.attention import Implementation, MultiHeadAttention
from ..nn.block import CrossBlock, PostNormBlock
from ..nn.dropout import Dropout, share_generator
from ..nn.embedding import Embedding
from ..nn.feed_forward import Activation, FeedForward
from ..nn.linear import Linear
from ..nn.module import ModuleList
from ..nn.norm import LayerNorm
from ..nn.position import SinusoidalPosition, check_evaluating
from ..ops._checks import is_array
from ..ops.attention import Mask
from ..random import DROPOUT, INITIALIZATION, Generator, default_seed
from .config import check_config
from .language import ModelCache, block_caches, check_context, check_ids, use_attention
from .output import Model

__all__ = ["Transformer", "TransformerConfig"]


@dataclass(frozen=True)
class TransformerConfig(CheckedArguments):
    """The configuration of a Transformer, saved with a run.

    vocab_size: of source and target together, which share one vocabulary. context_length: the longest source and the
    longest target. num_layers: of encoder blocks, and again of decoder blocks. num_kv_heads None means num_heads.
    mlp_dim None means 4 · embed_dim. The paper's base model has embed_dim 512, 8 heads, 6 layers, mlp_dim 2048 and
    dropout 0.1.
    """

    vocab_size: int
    context_length: int = 256
    embed_dim: int = 384
    num_heads: int = 6
    num_layers: int = 6
    num_kv_heads: int | None = None
    mlp_dim: int | None = None
    dropout: float = 0.0
    bias: bool = True  # in linears and norms
    activation: Activation = "relu"
    attn_implementation: Implementation = "auto"

    def __post_init__(self) -> None:
        check_config(
            self,
            ("vocab_size", "context_length", "embed_dim", "num_heads", "num_layers"),
            ("num_kv_heads", "mlp_dim"),
        )


class Transformer(Model):
    """Source ids (B, S) and target ids (B, T) in, logits (B, T, V) of the target token after each position out.

    One matrix is the embedding of source and target, multiplied by √embed_dim, and the head (section 3.4). Padding
    stands at the end of a row; the length of each row is given, padding is masked, and gets no gradient. Dropout
    follows both embeddings and every sublayer (5.4), and drops attention weights too. Weights are initialized as those
    of a `TransformerLM`.

    generator: of the random numbers of dropout; part of the state of a run.
    """

    def __init__(self, config: TransformerConfig, seed: int | None = None) -> None:
        super().__init__()
        self.config = config
        seed = default_seed(seed)
        self.generator = Generator(seed, DROPOUT)
        weights = Generator(seed, INITIALIZATION)
        C = config.embed_dim
        self.mask = Mask(causal=True)
        self.scale = sqrt(C)
        # source and target share this module: it runs twice in a forward, and its backward in the reverse order
        self.token_embedding = Embedding(config.vocab_size, C, weight_init=init.normal(C**-0.5), generator=weights)
        self.position = SinusoidalPosition()
        self.dropout = Dropout(config.dropout)
        self.encoder = ModuleList(self._encoder_block(weights) for _ in range(config.num_layers))
        self.decoder = ModuleList(self._decoder_block(weights) for _ in range(config.num_layers))
        self.head = Linear(C, config.vocab_size, bias=False, generator=weights)
        self.head.weight = self.token_embedding.weight
        share_generator(self, self.generator)
        self.lay_flat()  # all parameters lie in one buffer

    def _encoder_block(self, weights: Generator) -> PostNormBlock:
        return PostNormBlock(*self._attention(weights), *self._feed_forward(weights))

    def _decoder_block(self, weights: Generator) -> CrossBlock:
        return CrossBlock(self._attention(weights), self._attention(weights), self._feed_forward(weights))

    def _attention(self, weights: Generator) -> tuple[MultiHeadAttention, Dropout, LayerNorm]:
        config = self.config
        attention = MultiHeadAttention(
            config.embed_dim,
            config.num_heads,
            num_kv_heads=config.num_kv_heads,
            bias=config.bias,
            dropout=config.dropout,
            implementation=config.attn_implementation,
            weight_init=init.xavier_uniform(),
            generator=weights,
        )
        return (
            attention,
            Dropout(config.dropout),
            LayerNorm(config.embed_dim, bias=config.bias),
        )

    def _feed_forward(self, weights: Generator) -> tuple[FeedForward, Dropout, LayerNorm]:
        config, C = self.config, self.config.embed_dim
        feed_forward = FeedForward(
            C,
            config.mlp_dim or 4 * C,
            bias=config.bias,
            activation=config.activation,
            weight_init=init.xavier_uniform(),
            generator=weights,
        )
        return feed_forward, Dropout(config.dropout), LayerNorm(C, bias=config.bias)

    def forward(
        self, source: Array, target: Array, source_lengths: Array | None = None, target_lengths: Array | None = None
    ) -> Array:
        """Return the logits (B, T, V) of the token that follows each position of target (B, T), given source (B, S).

        source_lengths, target_lengths: (B) integers, how many positions at the start of each row are text; None for
        all. S and T are at most context_length.

        Raises ShapeError for ids that are no (B, S) and (B, T) of one B, or lengths of another number; RangeError for
        an id outside the vocabulary, a position past the context, or a length past its row; DtypeError for ids or
        lengths that are no integers.
        """
        self._check("target", target, target_lengths)
        memory = self.encode(source, source_lengths)
        return self.decode(target, memory, source_lengths, target_lengths)

    def backward(self, dlogits: Array) -> tuple[Array, Array]:
        """Add to the gradients of all parameters. Return those of the embedded source (B, S, C) and target."""
        dx = self.head.backward(dlogits)
        dmemory: Any = 0
        for block in reversed(self.decoder):
            dx, dmemory_of_block = block.backward(dx)
            dmemory = dmemory + dmemory_of_block  # every block reads it
        dtarget = self._embed_backward(dx)
        dsource = self._encode_backward(dmemory)
        return dsource, dtarget

    def encode(self, source: Array, source_lengths: Array | None = None) -> Array:
        """Return the memory (B, S, C) of source (B, S): the first half of `forward`."""
        self._check("source", source, source_lengths)
        x = self._embed(source)
        mask = Mask(key_lengths=source_lengths)
        for block in self.encoder:
            x = block(x, mask)
        return x

    def _encode_backward(self, dx: Array) -> Array:
        for block in reversed(self.encoder):
            dx = block.backward(dx)
        return self._embed_backward(dx)

    def decode(
        self,
        target: Array,
        memory: Array,
        source_lengths: Array | None = None,
        target_lengths: Array | None = None,
        cache: ModelCache | None = None,
        *,
        logits_to_keep: int | None = None,
    ) -> Array:
        """Return the logits (B, T, V) that follow target (B, T): the second half of `forward`.

        memory: what `encode` returned. cache: holds the target positions before these; see `LanguageModel`. It
        also takes the projected memory at its first use, and from then on the memory itself is not read.
        logits_to_keep: compute the logits of this many last positions only. Both are for `eval()`: nothing is saved for
        a backward.
        """
        start = 0 if cache is None else cache.length
        self._check("target", target, target_lengths, start)
        check_pairs(memory, target)
        for option, value in (("cache", cache), ("logits_to_keep", logits_to_keep)):
            if value is not None:
                check_evaluating("Transformer", option, self.training)
        x = self._embed(target, start)
        mask, memory_mask = self.mask._replace(key_lengths=target_lengths), Mask(key_lengths=source_lengths)
        for block, block_cache in zip(self.decoder, block_caches(cache, self.decoder), strict=True):
            x = block(x, memory, mask, memory_mask, block_cache)
        if cache is not None:
            cache.advance(target.shape[1])
        return self.head(x if logits_to_keep is None else x[:, -logits_to_keep:])

    def use_attention(self, implementation: Implementation) -> None:
        """Change the algorithm of every attention, self and cross; the weights stay."""
        use_attention(self, implementation)

    def _embed(self, ids: Array, start: int = 0) -> Array:
        x = self.token_embedding(ids) * self.scale
        x = self.position(x, start)
        x = self.dropout(x)
        return x

    def _embed_backward(self, dx: Array) -> Array:
        dx = self.dropout.backward(dx)
        dx = self.position.backward(dx)
        dx = dx * self.scale
        self.token_embedding.backward(dx)
        return dx

    def _check(self, name: str, ids: Array, lengths: Array | None, start: int = 0) -> None:
        check_ids("Transformer", name, ids)
        check_context("Transformer", name, ids, self.config.context_length, start)
        if lengths is not None:
            check_lengths(name, lengths, *ids.shape)


def check_lengths(name: str, lengths: Array, rows: int, longest: int) -> None:
    """Raise for lengths that are no integer array (B) in [1, longest]."""
    came = lengths.shape if is_array(lengths) else type(lengths).__name__
    if came != (rows,):
        raise ShapeError(f"Transformer: {name}_lengths are an array of shape ({rows},), one a row, got {came}.")
    if lengths.dtype.kind not in "iu":
        raise DtypeError(f"Transformer: {name}_lengths are integers, got {lengths.dtype}.")
    if not is_captured(lengths) and ((lengths < 1) | (lengths > longest)).any():
        raise RangeError(
            f"Transformer: {name}_lengths lie in [1, {longest}], the width of {name}, got {lengths}. A text has at "
            "least one token: give an empty one its end."
        )


def check_pairs(memory: Array, target: Array) -> None:
    """Raise for another number of sources than of targets."""
    if len(memory) != len(target):
        raise ShapeError(
            f"Transformer: source and target have one row a pair, got {len(memory)} sources and {len(target)} targets."
        )
