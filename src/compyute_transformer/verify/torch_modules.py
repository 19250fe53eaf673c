"""Our modules and models in plain torch functions, from the formulas, without a line of `ops`, `nn` or `models`.

A kernel starts from the state dict of our module and takes its dropout masks from `random.keep_mask`, draw for draw as
the module's generator will hand them out, so that outputs and every named gradient can be compared with dropout on.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import sqrt
from typing import Any, TypeAlias

from ..nn.feed_forward import Activation
from ..nn.module import Module
from ..random import Generator, keep_mask
from .torch_ops import import_torch

__all__ = [
    "Tensor",
    "TorchDropout",
    "Weights",
    "torch_block",
    "torch_feed_forward",
    "torch_multi_head",
    "torch_multi_head_module",
    "torch_weights",
]

Tensor: TypeAlias = Any  # torch's; torch is imported only when a kernel is built
Weights: TypeAlias = Mapping[str, Tensor]


class TorchDropout:
    """Drops what our model will drop next: a copy of its generator runs ahead beside it."""

    def __init__(self, generator: Generator, probability: float) -> None:
        self.generator, self.probability = replace(generator), probability

    def __call__(self, x: Tensor) -> Tensor:
        """Keep and scale, by the next draw; without dropout there is none."""
        torch = import_torch()

        if self.probability == 0.0:
            return x
        keep = keep_mask(self.generator.next(), self.probability, tuple(x.shape))
        return torch.where(torch.from_numpy(keep), x / (1.0 - self.probability), torch.zeros_like(x))


def torch_weights(module: Module) -> dict[str, Tensor]:
    """The module's parameters as leaves of torch's graph, by path, once each."""
    torch = import_torch()

    return {path: torch.from_numpy(array).requires_grad_() for path, array in module.state_dict().items()}


def torch_multi_head(
    weights: Weights, x: Tensor, memory: Tensor, heads: tuple[int, int], added: Tensor, drop: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Multi-head attention by hand, for what torch's module has no words for: grouped heads, and given masks.

    heads: H query heads and K key/value heads. Returns y (B, T, C) and the weights (B, H, T, S) before dropout.
    """
    torch = import_torch()
    functional = torch.nn.functional

    H, K = heads
    D = weights["out_weight"].shape[1] // H
    rows = [H * D, K * D, K * D]
    biases = weights["in_bias"].split(rows) if "in_bias" in weights else (None, None, None)
    q, k, v = (
        functional.linear(source, matrix, bias).unflatten(-1, (-1, D)).transpose(1, 2)
        for source, matrix, bias in zip((x, memory, memory), weights["in_weight"].split(rows), biases, strict=True)
    )
    k, v = k.repeat_interleave(H // K, dim=1), v.repeat_interleave(H // K, dim=1)
    shares = torch.softmax(torch.einsum("bhtd,bhsd->bhts", q, k) / sqrt(D) + added, dim=-1)
    y = torch.einsum("bhts,bhsd->bthd", drop(shares), v).flatten(2)
    return functional.linear(y, weights["out_weight"], weights.get("out_bias")), shares


def torch_multi_head_module(
    weights: Weights, x: Tensor, memory: Tensor, num_heads: int, added: Tensor
) -> tuple[Tensor, Tensor]:
    """Multi-head attention by torch.nn.MultiheadAttention, run on our weights; the same results."""
    torch = import_torch()

    B, T, C = x.shape
    module = torch.nn.MultiheadAttention(C, num_heads, bias="in_bias" in weights, batch_first=True, dtype=x.dtype)
    theirs = {"in_weight": "in_proj_weight", "in_bias": "in_proj_bias"}
    renamed = {theirs.get(name, name.replace("_", "_proj.")): tensor for name, tensor in weights.items()}
    mask = added.expand(B, num_heads, T, memory.shape[1]).flatten(0, 1)
    options = {"attn_mask": mask, "need_weights": True, "average_attn_weights": False}
    return torch.func.functional_call(module, renamed, (x, memory, memory), options)


def torch_activation(name: Activation, x: Tensor) -> Tensor:
    """Return the activation of a feed-forward."""
    functional = import_torch().nn.functional

    if name == "relu":
        return functional.relu(x)
    return functional.gelu(x, approximate="tanh" if name == "gelu_tanh" else "none")


def part(weights: Weights, name: str) -> dict[str, Tensor]:
    """The weights below a path."""
    return {path.removeprefix(name + "."): w for path, w in weights.items() if path.startswith(name + ".")}


def torch_norm(weights: Weights, x: Tensor) -> Tensor:
    """Layer norm."""
    return import_torch().nn.functional.layer_norm(x, x.shape[-1:], weights["weight"], weights.get("bias"))


def torch_feed_forward(weights: Weights, x: Tensor, activation: Activation) -> Tensor:
    """Return down(activation(up(x)))."""
    functional = import_torch().nn.functional

    up, down = part(weights, "up"), part(weights, "down")
    hidden = torch_activation(activation, functional.linear(x, up["weight"], up.get("bias")))
    return functional.linear(hidden, down["weight"], down.get("bias"))


def torch_block(
    weights: Weights,
    x: Tensor,
    heads: tuple[int, int],
    added: Tensor,
    drop: Callable[[Tensor], Tensor],
    activation: Activation,
) -> Tensor:
    """A pre-norm block."""
    normed = torch_norm(part(weights, "attention_norm"), x)
    x = x + drop(torch_multi_head(part(weights, "attention"), normed, normed, heads, added, drop)[0])
    normed = torch_norm(part(weights, "feed_forward_norm"), x)
    return x + drop(torch_feed_forward(part(weights, "feed_forward"), normed, activation))
