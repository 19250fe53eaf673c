"""Block: what a transformer repeats. The residual stream passes through; attention and feed-forward add to it."""

from ..backend import Array
from ..ops.attention import NO_MASK, Mask
from .attention import AttentionCache, MultiHeadAttention
from .dropout import Dropout
from .feed_forward import FeedForward
from .module import Module
from .norm import LayerNorm

__all__ = ["PreNormBlock"]


class PreNormBlock(Module):
    """x ← x + dropout(attention(norm(x))); x ← x + dropout(feed_forward(norm(x))).

    The stream itself is never normalised, so the gradient reaches the first block undamped (Radford et al. 2019;
    Xiong et al. 2020, "On layer normalization in the transformer architecture").
    """

    def __init__(
        self,
        attention_norm: LayerNorm,
        attention: MultiHeadAttention,
        attention_dropout: Dropout,
        feed_forward_norm: LayerNorm,
        feed_forward: FeedForward,
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
        """Transform the residual stream (B, T, C). cache: see `MultiHeadAttention.forward`."""
        x = x + self.attention_dropout(self.attention(self.attention_norm(x), mask=mask, cache=cache))
        x = x + self.feed_forward_dropout(self.feed_forward(self.feed_forward_norm(x)))
        return x

    def backward(self, dx: Array) -> Array:
        """The gradient of the stream before the block; a residual adds both ways."""
        dx = dx + self.feed_forward_norm.backward(self.feed_forward.backward(self.feed_forward_dropout.backward(dx)))
        dx = dx + self.attention_norm.backward(self.attention.backward(self.attention_dropout.backward(dx))[0])
        return dx
