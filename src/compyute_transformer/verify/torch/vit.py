"""ViT in plain torch functions, from the formulas, without a line of `ops`, `nn` or `models`."""

from collections.abc import Callable

from ...models.vit import ViTConfig
from ...ops.attention import NO_MASK
from ..record import Tensor, Weights
from ..records.embedding import torch_class_token, torch_patch_embedding
from ..records.linear import torch_linear
from .base import dense_mask
from .modules import part, torch_block, torch_norm

__all__ = ["logits"]


def logits(weights: Weights, config: ViTConfig, images: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the logits (B, num_classes) of a ViT."""
    patches = part(weights, "patch_embedding")
    x = torch_patch_embedding(images, patches["weight"], patches.get("bias"), config.patch_size)
    x = torch_class_token(x, weights["class_token.weight"])
    x = drop(x + weights["position.weight"])
    heads, N = (config.num_heads, config.num_heads), x.shape[1]
    for index in range(config.num_layers):
        added = dense_mask(NO_MASK, N, N, x.dtype)
        x = torch_block(part(weights, f"blocks.{index}"), x, heads, added, drop, config.activation, config.norm_eps)
    head = part(weights, "head")
    return torch_linear(torch_norm(part(weights, "norm"), x, config.norm_eps)[:, 0], head["weight"], head.get("bias"))
