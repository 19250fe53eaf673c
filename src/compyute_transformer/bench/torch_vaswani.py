"""The Transformer of `models.transformer` in idiomatic PyTorch: nn.Linear, fused attention, nn.LayerNorm.

It computes the same function from our weights. Imported only where PyTorch is
installed.
"""

from collections.abc import Mapping
from math import sqrt
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from ..arrays import Array
from ..errors import ConfigError
from ..models.transformer import TransformerConfig
from ..ops.position import sinusoids

__all__ = ["TorchTransformer"]

Tensor: TypeAlias = Any  # torch's types are not checked: it need not be installed


class Attention(nn.Module):  # type: ignore[misc]
    """From x to x itself, or to a memory."""

    def __init__(self, config: TransformerConfig, cross: bool = False) -> None:
        super().__init__()
        C, self.heads, self.dropout = config.embed_dim, config.num_heads, config.dropout
        if cross:
            self.queries, self.memory = nn.Linear(C, C, config.bias), nn.Linear(C, 2 * C, config.bias)
        else:
            self.inputs = nn.Linear(C, 3 * C, config.bias)
        self.out = nn.Linear(C, C, config.bias)

    def forward(self, x: Tensor, memory: Tensor = None, seen: Tensor = None, causal: bool = False) -> Tensor:
        """(B, T, C) -> (B, T, C). seen: (B, 1, 1, S), where a key is text."""
        if memory is None:
            parts = self.inputs(x).chunk(3, dim=-1)
        else:
            parts = self.queries(x), *self.memory(memory).chunk(2, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout, is_causal=causal)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):  # type: ignore[misc]
    """Attention, in a decoder a look at the memory, and feed-forward, each added to what came and normalized."""

    def __init__(self, config: TransformerConfig, cross: bool) -> None:
        super().__init__()
        C, hidden = config.embed_dim, config.mlp_dim or 4 * config.embed_dim
        names = ("attention", "cross_attention", "feed_forward") if cross else ("attention", "feed_forward")
        self.norms = nn.ModuleDict({name: nn.LayerNorm(C, bias=config.bias) for name in names})
        self.dropouts = nn.ModuleDict({name: nn.Dropout(config.dropout) for name in names})
        self.attention = Attention(config)
        self.cross_attention = Attention(config, cross=True) if cross else None
        self.up, self.down = nn.Linear(C, hidden, config.bias), nn.Linear(hidden, C, config.bias)
        self.activation = (
            nn.ReLU() if config.activation == "relu" else nn.GELU("tanh" if "tanh" in config.activation else "none")
        )

    def forward(self, x: Tensor, memory: Tensor = None, seen: Tensor = None) -> Tensor:
        """(B, T, C) -> (B, T, C). seen: which positions of the source are text."""
        in_decoder = self.cross_attention is not None
        y = self.attention(x, causal=True) if in_decoder else self.attention(x, seen=seen)
        x = self.add("attention", x, y)
        if self.cross_attention is not None:
            x = self.add("cross_attention", x, self.cross_attention(x, memory, seen))
        return self.add("feed_forward", x, self.down(self.activation(self.up(x))))

    def add(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        """norm(x + dropout(y))."""
        return self.norms[name](x + self.dropouts[name](y))


class TorchTransformer(nn.Module):  # type: ignore[misc]
    """Source (B, S), target (B, T) and the lengths of sources (B) in, logits (B, T, V) out."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        if config.num_kv_heads not in (None, config.num_heads):
            raise ConfigError(
                "TorchTransformer: the benchmark supports num_kv_heads = num_heads, got "
                f"num_kv_heads {config.num_kv_heads} for {config.num_heads} heads."
            )
        self.scale = sqrt(config.embed_dim)
        self.tokens = nn.Embedding(config.vocab_size, config.embed_dim)
        table = torch.from_numpy(sinusoids(config.context_length, config.embed_dim))
        self.register_buffer("positions", table, persistent=False)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = nn.ModuleList(Block(config, cross=False) for _ in range(config.num_layers))
        self.decoder = nn.ModuleList(Block(config, cross=True) for _ in range(config.num_layers))

    def forward(self, source: Tensor, target: Tensor, source_lengths: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        seen = (torch.arange(source.shape[1]) < source_lengths[:, None])[:, None, None, :]
        memory, x = self.embed(source), self.embed(target)
        for block in self.encoder:
            memory = block(memory, seen=seen)
        for block in self.decoder:
            x = block(x, memory, seen)
        return F.linear(x, self.tokens.weight)

    def embed(self, ids: Tensor) -> Tensor:
        """√C · embedding + sinusoids."""
        return self.dropout(self.tokens(ids) * self.scale + self.positions[: ids.shape[1]])

    def load(self, state: Mapping[str, Array]) -> None:
        """Take over our weights, all of them."""
        renamed: dict[str, Tensor] = {}
        for path, array in state.items():
            tensor = torch.from_numpy(array)
            if ".cross_attention.in_" in path:  # our three projections lie below each other; here they are two modules
                queries, memory = tensor.split([len(tensor) // 3, 2 * len(tensor) // 3])
                renamed[path.replace("in_", "queries.")], renamed[path.replace("in_", "memory.")] = queries, memory
            else:
                renamed[_their_name(path)] = tensor
        self.load_state_dict(renamed)  # which refuses a name or a shape that does not fit


def _their_name(path: str) -> str:
    if "_norm." in path:  # decoder.0.attention_norm.weight -> decoder.0.norms.attention.weight
        block, sublayer, weight = path.rsplit(".", 2)
        return f"{block}.norms.{sublayer.removesuffix('_norm')}.{weight}"
    names = {"token_embedding.": "tokens.", "attention.in_": "attention.inputs.", "attention.out_": "attention.out."}
    for ours, theirs in names.items():
        path = path.replace(ours, theirs)
    return path.replace("feed_forward.", "").replace("cross_attention.out_", "cross_attention.out.")
