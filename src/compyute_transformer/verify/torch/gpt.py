"""GPT in plain torch functions, from the formulas, without a line of `ops`, `nn` or `models`."""

from collections.abc import Callable

from ...models.gpt import GPTConfig
from ...ops.attention import Mask
from ..record import Tensor, Weights
from .base import dense_mask, import_torch
from .modules import part, torch_block, torch_norm

__all__ = ["logits"]


def logits(weights: Weights, config: GPTConfig, ids: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the logits (B, T, V) of a GPT."""
    functional = import_torch().nn.functional

    T = ids.shape[1]
    heads = config.num_heads, config.num_kv_heads or config.num_heads
    x = functional.embedding(ids, weights["token_embedding.weight"]) + weights["position.weight"][:T]
    added = dense_mask(Mask(causal=True, window=config.window), T, T, x.dtype)
    x = drop(x)
    for index in range(config.num_layers):
        block = part(weights, f"blocks.{index}")
        x = torch_block(block, x, heads, added, drop, config.activation, config.norm_eps, config.soft_cap)
    head = weights["token_embedding.weight" if config.tie_word_embeddings else "head.weight"]
    return functional.linear(torch_norm(part(weights, "norm"), x, config.norm_eps), head)
