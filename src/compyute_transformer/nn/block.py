"""Transformer blocks: attention and feed-forward, each of which adds its output to the residual stream.

    PreNormBlock    normalizes the input of attention and feed-forward    GPT, Llama, vision transformer
    PostNormBlock   normalizes the stream after each addition             Transformer encoder, TransformerLM
    CrossBlock      the same, with attention to a memory in between       Transformer decoder

The lines of backward are the lines of forward, reversed. Before them, `run_again` runs the forward again where a model
recomputes, and does nothing else; see `recompute`. In bfloat16 on a CPU kernels compute a `PreNormBlock` in training at
once, in place of its lines; see `fused_block`.
"""

from typing import Protocol

from ..arrays import Array
from ..ops.attention import NO_MASK, Mask
from .attention import AttentionCache, MultiHeadAttention, ProjectedMemory
from .dropout import Dropout
from .feed_forward import FeedForward, GatedFeedForward
from .fused import added, normalized
from .fused_block import block_backward_at_once, block_forward_at_once
from .module import Module
from .norm import LayerNorm
from .recompute import Block

__all__ = ["CrossBlock", "CrossCache", "PostNormBlock", "PreNormBlock"]


class PreNormBlock(Block):
    """x ← x + dropout(attention(norm(x))); x ← x + dropout(feed_forward(norm(x))).

    The stream itself is never normalized, so the gradient reaches the first block unchanged beside the gradients of
    the branches (Radford et al. 2019; Xiong et al. 2020, "On layer normalization in the transformer architecture").
    """

    def __init__(
        self,
        attention_norm: Module,
        attention: MultiHeadAttention,
        attention_dropout: Dropout,
        feed_forward_norm: Module,
        feed_forward: FeedForward | GatedFeedForward,
        feed_forward_dropout: Dropout,
    ) -> None:
        super().__init__()
        self.attention_norm = attention_norm
        self.attention = attention
        self.attention_dropout = attention_dropout
        self.feed_forward_norm = feed_forward_norm
        self.feed_forward = feed_forward
        self.feed_forward_dropout = feed_forward_dropout

    def forward(self, x: Array, mask: Mask = NO_MASK, cache: AttentionCache | None = None) -> Array:
        """Return the residual stream (B, T, C) after the block. cache: see `MultiHeadAttention.forward`."""
        if (y := block_forward_at_once(self, x, mask, cache)) is not None:
            return y
        branch = normalized(self.attention_norm, x, self.attention)
        branch = self.attention(branch, None, mask, cache)
        branch = self.attention_dropout(branch)
        x = added(x, branch)
        branch = normalized(self.feed_forward_norm, x, self.feed_forward)
        branch = self.feed_forward(branch)
        branch = self.feed_forward_dropout(branch)
        x = added(x, branch)
        return x

    def backward(self, dx: Array) -> Array:
        """Return the gradient of the stream before the block; the gradient of a sum goes to both of its terms."""
        self.run_again()
        if (dstream := block_backward_at_once(self, dx)) is not None:
            return dstream
        dbranch = self.feed_forward_dropout.backward(dx)
        dbranch = self.feed_forward.backward(dbranch)
        dbranch = self.feed_forward_norm.backward(dbranch)
        dx = added(dx, dbranch)
        dbranch = self.attention_dropout.backward(dx)
        dbranch, _ = self.attention.backward(dbranch)  # the second is the gradient of a memory: there is none
        dbranch = self.attention_norm.backward(dbranch)
        dx = added(dx, dbranch)
        return dx


class PostNormBlock(Block):
    """x ← norm(x + dropout(attention(x))); x ← norm(x + dropout(feed_forward(x))).

    The stream is normalized after each addition, so the output has mean 0 and variance 1 before the last scale and
    shift, and no further norm is needed after the last block (Vaswani et al. 2017, section 3.1).
    """

    def __init__(
        self,
        attention: MultiHeadAttention,
        attention_dropout: Dropout,
        attention_norm: LayerNorm,
        feed_forward: FeedForward,
        feed_forward_dropout: Dropout,
        feed_forward_norm: LayerNorm,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.attention_dropout = attention_dropout
        self.attention_norm = attention_norm
        self.feed_forward = feed_forward
        self.feed_forward_dropout = feed_forward_dropout
        self.feed_forward_norm = feed_forward_norm

    def forward(self, x: Array, mask: Mask = NO_MASK, cache: AttentionCache | None = None) -> Array:
        """Return x (B, T, C) after the block. cache: see `MultiHeadAttention.forward`."""
        x = self.attention_norm(added(x, self.attention_dropout(self.attention(x, None, mask, cache))))
        x = self.feed_forward_norm(added(x, self.feed_forward_dropout(self.feed_forward(x))))
        return x

    def backward(self, dx: Array) -> Array:
        """Return the gradient of x; a residual connection adds the gradient of the branch."""
        self.run_again()
        dx = self.feed_forward_norm.backward(dx)
        dx = added(dx, self.feed_forward.backward(self.feed_forward_dropout.backward(dx)))
        dx = self.attention_norm.backward(dx)
        dx = added(dx, self.attention.backward(self.attention_dropout.backward(dx))[0])
        return dx


class CrossCache(AttentionCache, Protocol):
    """The cache of a `CrossBlock`: an `AttentionCache` of its self-attention, and the projected memory."""

    memory: ProjectedMemory | None


class CrossBlock(Block):
    """A `PostNormBlock` with attention to a memory between the two: x ← norm(x + dropout(cross_attention(x, memory))).

    Queries come from x, keys and values from the memory, the encoder's output for the source (Vaswani et al. 2017,
    sections 3.1 and 3.2.3). attention, cross_attention, feed_forward: each with its dropout and
    its norm.
    """

    def __init__(
        self,
        attention: tuple[MultiHeadAttention, Dropout, LayerNorm],
        cross_attention: tuple[MultiHeadAttention, Dropout, LayerNorm],
        feed_forward: tuple[FeedForward, Dropout, LayerNorm],
    ) -> None:
        super().__init__()
        self.attention, self.attention_dropout, self.attention_norm = attention
        self.cross_attention, self.cross_attention_dropout, self.cross_attention_norm = cross_attention
        self.feed_forward, self.feed_forward_dropout, self.feed_forward_norm = feed_forward

    def forward(
        self,
        x: Array,
        memory: Array,
        mask: Mask = NO_MASK,
        memory_mask: Mask = NO_MASK,
        cache: CrossCache | None = None,
    ) -> Array:
        """Return x (B, T, C) after the block, given a memory (B, S, C).

        mask: for the attention of x to itself. memory_mask: for its attention to the memory. cache: see
        `MultiHeadAttention.forward`; it also stores the keys and values of the memory at its first use, and from then
        on the memory is not read.
        """
        x = self.attention_norm(added(x, self.attention_dropout(self.attention(x, None, mask, cache))))
        source = memory if cache is None else self._project_once(memory, cache)
        x = self.cross_attention_norm(
            added(x, self.cross_attention_dropout(self.cross_attention(x, source, memory_mask)))
        )
        x = self.feed_forward_norm(added(x, self.feed_forward_dropout(self.feed_forward(x))))
        return x

    def _project_once(self, memory: Array, cache: CrossCache) -> ProjectedMemory:
        if cache.memory is None:
            cache.memory = self.cross_attention.project_memory(memory)
        return cache.memory

    def backward(self, dx: Array) -> tuple[Array, Array]:
        """Return the gradients of x and of the memory."""
        self.run_again()
        dx = self.feed_forward_norm.backward(dx)
        dx = added(dx, self.feed_forward.backward(self.feed_forward_dropout.backward(dx)))
        dx = self.cross_attention_norm.backward(dx)
        dcross, dmemory = self.cross_attention.backward(self.cross_attention_dropout.backward(dx))
        assert dmemory is not None  # forward was given a memory
        dx = self.attention_norm.backward(added(dx, dcross))
        dx = added(dx, self.attention.backward(self.attention_dropout.backward(dx))[0])
        return dx, dmemory
