"""The decoder-only Vaswani model in plain torch functions, without a line of `ops`, `nn` or `models`."""

from ...models.transformer_lm import TransformerLMConfig
from ...ops.attention import Mask
from ..record import Tensor, Weights
from .base import dense_mask
from .modules import part
from .transformer import Drop, embedded, heads_of, torch_post_norm_block

__all__ = ["logits"]


def logits(weights: Weights, config: TransformerLMConfig, ids: Tensor, drop: Drop) -> Tensor:
    """Return the logits (B, T, V) of a TransformerLM."""
    T, x = ids.shape[1], embedded(weights, ids, drop)
    added = dense_mask(Mask(causal=True, window=config.window), T, T, x.dtype)
    for index in range(config.num_layers):
        block = part(weights, f"blocks.{index}")
        x = torch_post_norm_block(block, x, heads_of(config), added, drop, config.activation)
    return x @ weights["token_embedding.weight"].T
