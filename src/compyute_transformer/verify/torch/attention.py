"""Attention beside PyTorch's: outputs, attention weights and every gradient of `MultiHeadAttention`."""

from typing import Any

import numpy as np

from ...nn.attention import Implementation, MultiHeadAttention
from ...ops.attention import NO_MASK, Mask
from ...random import DROPOUT, Generator
from ..function import randomize
from ..record import Tensor, Weights, cotangent
from ..result import outcome_errors
from .base import dense_mask, import_torch, one_thread
from .modules import TorchDropout, torch_multi_head, torch_weights

__all__ = ["compare_attention"]


@one_thread()
def compare_attention(
    implementation: Implementation,
    dtype: Any = np.float64,
    seed: int = 0,
    *,
    mask: Mask = NO_MASK,
    shape: tuple[int, int] = (2, 5),
    memory_length: int | None = None,
    **options: Any,
) -> dict[str, float]:
    """Compare with torch.nn.MultiheadAttention; with one written by hand where dropout is on or heads are grouped.

    mask: lets each query see a key, since torch answers NaN where there is none. shape: B and T of x. memory_length: S
    of a memory; None for self-attention. options: of the module, such as num_heads or dropout.

    Return the relative error of "y", "attention_weights", "dx", "dmemory" and of each parameter's gradient.
    """
    torch = import_torch()
    options = {"embed_dim": 12, "num_heads": 3} | options
    ours = MultiHeadAttention(implementation=implementation, **options)
    ours.generator = Generator(seed, DROPOUT)
    ours.to(dtype=dtype)
    randomize(ours, seed)
    weights, drop = torch_weights(ours), TorchDropout(ours.generator, ours.dropout)
    (B, T), S, C = shape, memory_length or shape[1], options["embed_dim"]
    rng = np.random.default_rng([seed, 4])
    x = rng.normal(size=(B, T, C)).astype(dtype)
    memory = None if memory_length is None else rng.normal(size=(B, S, C)).astype(dtype)
    x_leaf = torch.from_numpy(x).requires_grad_()
    memory_leaf = x_leaf if memory is None else torch.from_numpy(memory).requires_grad_()

    y, probabilities = ours.forward_with_weights(x, memory, mask)
    dy = cotangent(y, seed)
    dx, dmemory = ours.backward(dy)

    added, H = dense_mask(mask, T, S, x_leaf.dtype), ours.num_heads
    if ours.dropout == 0.0 and ours.num_kv_heads == H:
        their_y, theirs = torch_own_attention(weights, x_leaf, memory_leaf, H, added)
    else:
        their_y, theirs = torch_multi_head(weights, x_leaf, memory_leaf, (H, ours.num_kv_heads), added, drop)
    their_y.backward(torch.from_numpy(dy))

    found = {"y": y, "attention_weights": probabilities, "dx": dx, "dmemory": dmemory}
    expected = {
        "y": their_y.detach().numpy(),
        "attention_weights": theirs.detach().numpy(),
        "dx": x_leaf.grad.numpy(),
        "dmemory": None if memory is None else memory_leaf.grad.numpy(),
    }
    found |= {path: parameter.grad for path, parameter in ours.named_parameters()}
    expected |= {path: None if w.grad is None else w.grad.numpy() for path, w in weights.items()}
    return outcome_errors(found, expected)


def torch_own_attention(
    weights: Weights, x: Tensor, memory: Tensor, num_heads: int, added: Tensor
) -> tuple[Tensor, Tensor]:
    """Return y and the attention weights of torch.nn.MultiheadAttention, run on our weights."""
    torch = import_torch()

    B, T, C = x.shape
    module = torch.nn.MultiheadAttention(C, num_heads, bias="in_bias" in weights, batch_first=True, dtype=x.dtype)
    theirs = {"in_weight": "in_proj_weight", "in_bias": "in_proj_bias"}
    renamed = {theirs.get(name, name.replace("_", "_proj.")): tensor for name, tensor in weights.items()}
    mask = added.expand(B, num_heads, T, memory.shape[1]).flatten(0, 1)
    options = {"attn_mask": mask, "need_weights": True, "average_attn_weights": False}
    return torch.func.functional_call(module, renamed, (x, memory, memory), options)
