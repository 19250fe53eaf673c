"""BERT in plain torch functions, from the formulas, without a line of `ops`, `nn` or `models`."""

from collections.abc import Callable

from ...models.bert import BertConfig
from ...ops.attention import Mask
from ..record import Tensor, Weights
from .base import dense_mask, import_torch
from .modules import part, torch_activation, torch_norm
from .transformer import torch_post_norm_block

__all__ = ["logits"]


def logits(
    weights: Weights,
    config: BertConfig,
    ids: Tensor,
    lengths: Tensor,
    token_types: Tensor,
    drop: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return the logits (B, T, V) of a Bert."""
    functional = import_torch().nn.functional
    T, eps = ids.shape[1], config.norm_eps
    x = functional.embedding(ids, weights["token_embedding.weight"])
    x = x + functional.embedding(token_types, weights["type_embedding.weight"]) + weights["position.weight"][:T]
    x = drop(torch_norm(part(weights, "embedding_norm"), x, eps))
    added = dense_mask(Mask(key_lengths=lengths.numpy()), T, T, x.dtype)
    heads = config.num_heads, config.num_heads
    for index in range(config.num_layers):
        x = torch_post_norm_block(part(weights, f"blocks.{index}"), x, heads, added, drop, config.activation, eps)
    x = functional.linear(x, weights["transform.weight"], weights["transform.bias"])
    x = torch_norm(part(weights, "transform_norm"), torch_activation(config.activation, x), eps)
    head = weights["token_embedding.weight" if config.tie_word_embeddings else "head.weight"]
    return functional.linear(x, head, weights["head.bias"])
