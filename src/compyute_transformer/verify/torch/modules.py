"""Our modules in plain torch functions, from the formulas, without a line of `ops`, `nn` or `models`.

A PyTorch version starts from the state dict of our module and takes its dropout masks from `random.keep_mask`, in the
order in which the module will draw them, so that outputs and every named gradient can be compared with dropout on.
"""

from collections.abc import Callable
from dataclasses import replace
from math import sqrt

from ...nn.feed_forward import Activation
from ...nn.module import Module
from ...random import Generator, keep_mask
from ..record import Tensor, Weights
from .base import capped, functional, import_torch

__all__ = [
    "TorchDropout",
    "part",
    "torch_block",
    "torch_feed_forward",
    "torch_multi_head",
    "torch_norm",
    "torch_weights",
]


class TorchDropout:
    """A function that drops what our module will drop next: it draws from a copy of its generator."""

    def __init__(self, generator: Generator, probability: float) -> None:
        self.generator, self.probability = replace(generator), probability

    def __call__(self, x: Tensor) -> Tensor:
        """Return x after dropout by the next draw; without dropout nothing is drawn."""
        torch = import_torch()

        if self.probability == 0.0:
            return x
        keep = keep_mask(self.generator.next(), self.probability, tuple(x.shape))
        return torch.where(torch.from_numpy(keep), x / (1.0 - self.probability), torch.zeros_like(x))


def torch_weights(module: Module) -> dict[str, Tensor]:
    """Return the module's parameters as leaves of torch's graph, by path, once each."""
    torch = import_torch()

    return {path: torch.from_numpy(array).requires_grad_() for path, array in module.state_dict().items()}


def torch_multi_head(
    weights: Weights,
    x: Tensor,
    memory: Tensor,
    heads: tuple[int, int],
    added: Tensor,
    drop: Callable[[Tensor], Tensor],
    soft_cap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute multi-head attention by hand: torch's module has neither grouped heads nor given dropout masks.

    heads: H query heads and K key/value heads. soft_cap: of the scores. Return y (B, T, C) and the weights (B, H, T, S)
    before dropout.
    """
    torch = import_torch()
    H, K = heads
    D = weights["out_weight"].shape[1] // H
    rows = [H * D, K * D, K * D]
    biases = weights["in_bias"].split(rows) if "in_bias" in weights else (None, None, None)
    q, k, v = (
        functional().linear(source, matrix, bias).unflatten(-1, (-1, D)).transpose(1, 2)
        for source, matrix, bias in zip((x, memory, memory), weights["in_weight"].split(rows), biases, strict=True)
    )
    k, v = k.repeat_interleave(H // K, dim=1), v.repeat_interleave(H // K, dim=1)
    scores = capped(torch.einsum("bhtd,bhsd->bhts", q, k) / sqrt(D), soft_cap)
    probabilities = torch.softmax(scores + added, dim=-1)
    y = torch.einsum("bhts,bhsd->bthd", drop(probabilities), v).flatten(2)
    return functional().linear(y, weights["out_weight"], weights.get("out_bias")), probabilities


def torch_activation(name: Activation, x: Tensor) -> Tensor:
    """Return the activation of a feed-forward."""
    if name == "relu":
        return functional().relu(x)
    return functional().gelu(x, approximate="tanh" if name == "gelu_tanh" else "none")


def part(weights: Weights, name: str) -> dict[str, Tensor]:
    """Return the weights below a path."""
    return {path.removeprefix(name + "."): w for path, w in weights.items() if path.startswith(name + ".")}


def torch_norm(weights: Weights, x: Tensor, eps: float = 1e-5) -> Tensor:
    """Compute layer norm."""
    return functional().layer_norm(x, x.shape[-1:], weights["weight"], weights.get("bias"), eps)


def torch_feed_forward(weights: Weights, x: Tensor, activation: Activation) -> Tensor:
    """Return down(activation(up(x)))."""
    up, down = part(weights, "up"), part(weights, "down")
    hidden = torch_activation(activation, functional().linear(x, up["weight"], up.get("bias")))
    return functional().linear(hidden, down["weight"], down.get("bias"))


def torch_block(
    weights: Weights,
    x: Tensor,
    heads: tuple[int, int],
    added: Tensor,
    drop: Callable[[Tensor], Tensor],
    activation: Activation,
    eps: float = 1e-5,
    soft_cap: float | None = None,
) -> Tensor:
    """Compute a pre-norm block."""
    normed = torch_norm(part(weights, "attention_norm"), x, eps)
    x = x + drop(torch_multi_head(part(weights, "attention"), normed, normed, heads, added, drop, soft_cap)[0])
    normed = torch_norm(part(weights, "feed_forward_norm"), x, eps)
    return x + drop(torch_feed_forward(part(weights, "feed_forward"), normed, activation))
