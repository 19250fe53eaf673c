"""The GPT of `models.gpt` in idiomatic PyTorch: nn.Linear, fused attention, fused AdamW.

It computes the same function from our weights. Imported only where PyTorch is installed.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from ..arrays import Array
from ..errors import ConfigError
from ..models.gpt import GPTConfig
from ..models.vit import ViTConfig

__all__ = ["Block", "TorchGPT"]

Tensor: TypeAlias = Any  # torch's types are not checked: it need not be installed


class Attention(nn.Module):  # type: ignore[misc]
    """Self-attention, causal or of all positions."""

    def __init__(self, config: GPTConfig | ViTConfig, causal: bool) -> None:
        super().__init__()
        self.heads, self.dropout, self.causal = config.num_heads, config.dropout, causal
        self.inputs = nn.Linear(config.embed_dim, 3 * config.embed_dim, config.bias)
        self.out = nn.Linear(config.embed_dim, config.embed_dim, config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.inputs(x).chunk(3, dim=-1))
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=self.causal)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):  # type: ignore[misc]
    """Attention and feed-forward on the residual stream."""

    def __init__(self, config: GPTConfig | ViTConfig, causal: bool) -> None:
        super().__init__()
        C, hidden = config.embed_dim, config.mlp_dim or 4 * config.embed_dim
        self.attention_norm, self.feed_forward_norm = (nn.LayerNorm(C, bias=config.bias) for _ in range(2))
        self.attention = Attention(config, causal)
        self.up, self.down = nn.Linear(C, hidden, config.bias), nn.Linear(hidden, C, config.bias)
        self.activation = (
            nn.ReLU() if config.activation == "relu" else nn.GELU("tanh" if "tanh" in config.activation else "none")
        )
        self.attention_dropout, self.feed_forward_dropout = (nn.Dropout(config.dropout) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attention_dropout(self.attention(self.attention_norm(x)))
        return x + self.feed_forward_dropout(self.down(self.activation(self.up(self.feed_forward_norm(x)))))


class TorchGPT(nn.Module):  # type: ignore[misc]
    """Ids (B, T) in, logits (B, T, V) out."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        if (
            config.num_kv_heads not in (None, config.num_heads)
            or config.window is not None
            or not config.tie_word_embeddings
        ):
            raise ConfigError(
                "TorchGPT: the benchmark supports GPTs with num_kv_heads = num_heads, no window and a tied head; got "
                f"num_kv_heads {config.num_kv_heads}, window {config.window}, "
                f"tie_word_embeddings {config.tie_word_embeddings}."
            )
        self.tokens = nn.Embedding(config.vocab_size, config.embed_dim)
        self.positions = nn.Embedding(config.context_length, config.embed_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, causal=True) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.embed_dim, bias=config.bias)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        x = self.dropout(self.tokens(ids) + self.positions(torch.arange(ids.shape[1])))
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)

    def load(self, state: Mapping[str, Array]) -> None:
        """Take over our weights, all of them."""
        renamed = {_their_name(path): torch.from_numpy(array) for path, array in state.items()}
        self.load_state_dict(renamed)  # which refuses a name or a shape that does not fit


NAMES = {
    "token_embedding.": "tokens.",
    "position.": "positions.",
    "attention.in_": "attention.inputs.",
    "attention.out_": "attention.out.",
    "feed_forward.": "",
}


def _their_name(path: str) -> str:
    for ours, theirs in NAMES.items():
        path = path.replace(ours, theirs)
    return path
