"""The GPT of `models.gpt` as PyTorch is meant to be written, for the race: nn.Linear, fused attention, fused AdamW.

It computes what ours does, from our weights. Imported only where PyTorch is installed.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from ..backend import Array
from ..errors import ConfigError
from ..models.gpt import GPTConfig
from .workload import Workload

__all__ = ["TorchGPT", "TorchStep"]

Tensor: TypeAlias = Any  # torch's types are not checked: it need not be installed


class Attention(nn.Module):  # type: ignore[misc]
    """Causal self-attention."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.num_heads, config.dropout
        self.inputs = nn.Linear(config.embed_dim, 3 * config.embed_dim, config.bias)
        self.out = nn.Linear(config.embed_dim, config.embed_dim, config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.inputs(x).chunk(3, dim=-1))
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):  # type: ignore[misc]
    """Attention and feed-forward on the residual stream."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        C, hidden = config.embed_dim, config.mlp_dim or 4 * config.embed_dim
        self.attention_norm, self.feed_forward_norm = (nn.LayerNorm(C, bias=config.bias) for _ in range(2))
        self.attention = Attention(config)
        self.up, self.down = nn.Linear(C, hidden, config.bias), nn.Linear(hidden, C, config.bias)
        self.bend = (
            nn.ReLU() if config.activation == "relu" else nn.GELU("tanh" if "tanh" in config.activation else "none")
        )
        self.attention_dropout, self.feed_forward_dropout = (nn.Dropout(config.dropout) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attention_dropout(self.attention(self.attention_norm(x)))
        return x + self.feed_forward_dropout(self.down(self.bend(self.up(self.feed_forward_norm(x)))))


class TorchGPT(nn.Module):  # type: ignore[misc]
    """Ids (B, T) in, logits (B, T, V) out."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        if config.num_kv_heads not in (None, config.num_heads) or config.window is not None or not config.tie_head:
            raise ConfigError(
                "TorchGPT: the race is between plain GPTs: every head its own keys, no window, a tied head; got "
                f"num_kv_heads {config.num_kv_heads}, window {config.window}, tie_head {config.tie_head}."
            )
        self.tokens = nn.Embedding(config.vocab_size, config.embed_dim)
        self.positions = nn.Embedding(config.context_length, config.embed_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
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


class TorchStep:
    """One step of training: the work of `workload.OurStep`, from the same weights on the same batches.

    norm: the length of the last gradient, before it was clipped. mode: "eager", "compiled" (torch.compile) or
    "autocast" (bfloat16 in matrix products and attention, float32 weights).
    """

    def __init__(self, work: Workload, state: Mapping[str, Array], mode: str = "eager") -> None:
        training = work.training
        self.model = TorchGPT(work.config)
        self.model.load(state)
        self.run = torch.compile(self.model) if mode == "compiled" else self.model
        self.mode, self.clip, self.norm, self.index = mode, training.clip, 0.0, 0
        self.parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in self.parameters if p.ndim >= 2], "weight_decay": training.weight_decay},
            {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        betas = (training.beta1, training.beta2)
        self.optimizer = torch.optim.AdamW(groups, lr=training.learning_rate, betas=betas, fused=True)
        self.batches = [(torch.from_numpy(x.copy()), torch.from_numpy(y.copy())) for x, y in work.batches()]

    def __call__(self) -> float:
        """Take the step."""
        x, y = self.batches[self.index % len(self.batches)]
        self.index += 1
        self.optimizer.zero_grad(set_to_none=True)
        precision: AbstractContextManager[Any] = nullcontext()
        if self.mode == "autocast":
            precision = torch.autocast("cpu", dtype=torch.bfloat16)
        with precision:
            loss = F.cross_entropy(self.run(x).flatten(0, 1), y.flatten())
        loss.backward()
        if self.clip is not None:
            self.norm = nn.utils.clip_grad_norm_(self.parameters, self.clip).item()
        self.optimizer.step()
        return float(loss.item())
