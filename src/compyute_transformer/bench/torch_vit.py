"""The ViT of `models.vit` in idiomatic PyTorch: nn.Conv2d, fused attention, nn.LayerNorm.

It computes the same function from our weights. Imported only where PyTorch is installed.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import nn

from ..arrays import Array
from ..models.vit import ViTConfig
from .torch_gpt import Block

__all__ = ["TorchViT"]

Tensor: TypeAlias = Any  # torch's types are not checked: it need not be installed


class TorchViT(nn.Module):  # type: ignore[misc]
    """Images (B, height, width, channels) in, logits (B, num_classes) out."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        C, P = config.embed_dim, config.patch_size
        self.patches = nn.Conv2d(config.channels, C, kernel_size=P, stride=P, bias=config.bias)
        self.class_token = nn.Parameter(torch.zeros(C))
        self.positions = nn.Parameter(torch.zeros(1 + config.num_patches, C))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, causal=False) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(C, bias=config.bias)
        self.head = nn.Linear(C, config.num_classes, config.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes)."""
        patches = self.patches(images.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(patches), 1, -1), patches], dim=1)
        x = self.dropout(x + self.positions)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))

    def load(self, state: Mapping[str, Array]) -> None:
        """Take over our weights, all of them."""
        renamed = {_their_name(path): torch.from_numpy(array) for path, array in state.items()}
        P, channels = self.patches.kernel_size[0], self.patches.in_channels
        kernel = renamed["patches.weight"].unflatten(1, (P, P, channels))
        renamed["patches.weight"] = kernel.permute(0, 3, 1, 2)  # channels first, as a convolution has them
        self.load_state_dict(renamed)  # which refuses a name or a shape that does not fit


NAMES = {
    "patch_embedding.": "patches.",
    "class_token.weight": "class_token",
    "position.weight": "positions",
    "attention.in_": "attention.inputs.",
    "attention.out_": "attention.out.",
    "feed_forward.": "",
}


def _their_name(path: str) -> str:
    for ours, theirs in NAMES.items():
        path = path.replace(ours, theirs)
    return path
