"""Whole models beside PyTorch: the same weights, the same dropped elements, and gradients by automatic differentiation.

A twin is written in plain torch functions, from the formulas, without a line of `ops`, `nn` or `models`. It starts from
the state dict of our model and takes its dropout masks from `random.keep_mask`, draw for draw as the model's generator
will hand them out, so that outputs and every named gradient can be compared with dropout on.

Before a comparison all weights are drawn anew (`randomise`): scales of 1 and biases of 0 would hide a missing factor
and a missing sum, and matrices as small as a GPT starts with would hide the whole path through the scores.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from math import sqrt
from typing import Any, TypeAlias

import numpy as np

from ..backend import Array
from ..models.gpt import GPT, GPTConfig
from ..nn.attention import Implementation, MultiHeadAttention
from ..nn.feed_forward import Activation
from ..nn.module import Module
from ..ops.attention import NO_MASK, Mask
from ..ops.contract import cotangent
from ..ops.loss import IGNORE_INDEX, cross_entropy_backward, cross_entropy_forward
from ..optim import AdamW, clip_by_global_norm
from ..random import DROPOUT, Generator, keep_mask
from .check import relative_error
from .torch_ops import import_torch

__all__ = ["compare_attention", "compare_gpt", "compare_training", "randomise"]

Tensor: TypeAlias = Any  # torch's; torch is imported only when a twin is built
Weights: TypeAlias = Mapping[str, Tensor]


def randomise(module: Module, seed: int = 0) -> None:
    """Draw all weights anew: matrices of variance 1/columns, and ±0.3 on vectors, about the values they have."""
    rng = np.random.default_rng([seed, 3])
    state = module.state_dict()
    for path, array in state.items():
        noise = rng.normal(size=array.shape)
        state[path] = noise * array.shape[-1] ** -0.5 if array.ndim > 1 else array + 0.3 * noise
    module.load_state_dict(state)


# --- the twins -----------------------------------------------------------------------------------------------------


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


def torch_mask(mask: Mask, T: int, S: int, dtype: Any) -> Tensor:
    """What is added to scores (B, H, T, S): zero where a key is seen, −∞ where it is hidden."""
    torch = import_torch()

    steps_back = torch.arange(S - T, S)[:, None] - torch.arange(S)[None, :]
    hidden = torch.zeros(1, 1, T, S, dtype=torch.bool)
    if mask.causal:
        hidden = hidden | (steps_back < 0)
    if mask.window is not None:
        hidden = hidden | (steps_back.abs() >= mask.window)
    if mask.key_lengths is not None:
        hidden = hidden | (torch.arange(S) >= torch.from_numpy(mask.key_lengths)[:, None, None, None])
    added = torch.zeros(1, 1, T, S, dtype=dtype)
    if mask.array is not None and mask.array.dtype == np.bool_:
        hidden = hidden | ~torch.from_numpy(mask.array)
    elif mask.array is not None:
        added = added + torch.from_numpy(mask.array)
    return added.masked_fill(hidden, float("-inf"))


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
    """The bend of a feed-forward."""
    functional = import_torch().nn.functional

    if name == "relu":
        return functional.relu(x)
    return functional.gelu(x, approximate="tanh" if name == "gelu_tanh" else "none")


def torch_gpt(weights: Weights, config: GPTConfig, ids: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
    """The logits (B, T, V) of a GPT."""
    functional = import_torch().nn.functional

    def part(name: str) -> dict[str, Tensor]:
        return {path.removeprefix(name + "."): w for path, w in weights.items() if path.startswith(name + ".")}

    def norm(name: str, x: Tensor) -> Tensor:
        return functional.layer_norm(x, (config.embed_dim,), part(name)["weight"], part(name).get("bias"))

    def linear(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, part(name)["weight"], part(name).get("bias"))

    T = ids.shape[1]
    heads = config.num_heads, config.num_kv_heads or config.num_heads
    x = functional.embedding(ids, weights["token_embedding.weight"]) + weights["position.weight"][:T]
    added = torch_mask(Mask(causal=True, window=config.window), T, T, x.dtype)
    x = drop(x)
    for index in range(config.num_layers):
        block = f"blocks.{index}"
        normed = norm(f"{block}.attention_norm", x)
        x = x + drop(torch_multi_head(part(f"{block}.attention"), normed, normed, heads, added, drop)[0])
        hidden = linear(f"{block}.feed_forward.up", norm(f"{block}.feed_forward_norm", x))
        x = x + drop(linear(f"{block}.feed_forward.down", torch_activation(config.activation, hidden)))
    head = weights["token_embedding.weight" if config.tie_head else "head.weight"]
    return functional.linear(norm("norm", x), head)


# --- the comparisons -----------------------------------------------------------------------------------------------


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch: on products this small several only wait for each other, on a busy machine for seconds."""
    torch = import_torch()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def compare_attention(
    implementation: Implementation,
    dtype: Any = np.float64,
    seed: int = 0,
    *,
    embed_dim: int = 12,
    num_heads: int = 3,
    num_kv_heads: int | None = None,
    bias: bool = True,
    dropout: float = 0.0,
    mask: Mask = NO_MASK,
    shape: tuple[int, int] = (2, 5),
    memory_length: int | None = None,
) -> dict[str, float]:
    """Our MultiHeadAttention beside torch.nn.MultiheadAttention; beside a twin by hand with dropout or grouped heads.

    shape: B and T of x. memory_length: S of a memory; None for self-attention. mask: lets each query see a key, since
    torch answers NaN where there is none.

    Returns:
        The relative error of "y", "attention_weights", "dx", "dmemory" and of each parameter's gradient, by its name.
    """
    torch = import_torch()

    ours = MultiHeadAttention(
        embed_dim, num_heads, num_kv_heads, bias, dropout, implementation, dropout_generator=Generator(seed, DROPOUT)
    )
    ours.to(dtype=dtype)
    randomise(ours, seed)
    weights, drop = torch_weights(ours), TorchDropout(ours.generator, dropout)
    (B, T), S = shape, memory_length or shape[1]
    rng = np.random.default_rng([seed, 4])
    x = rng.normal(size=(B, T, embed_dim)).astype(dtype)
    memory = None if memory_length is None else rng.normal(size=(B, S, embed_dim)).astype(dtype)
    x_leaf = torch.from_numpy(x).requires_grad_()
    memory_leaf = x_leaf if memory is None else torch.from_numpy(memory).requires_grad_()

    y, shares = ours.forward_with_weights(x, memory, mask)
    dy = cotangent(y, seed)
    dx, dmemory = ours.backward(dy)

    added = torch_mask(mask, T, S, x_leaf.dtype)
    if dropout == 0.0 and ours.num_kv_heads == num_heads:
        their_y, their_shares = torch_multi_head_module(weights, x_leaf, memory_leaf, num_heads, added)
    else:
        heads = num_heads, ours.num_kv_heads
        their_y, their_shares = torch_multi_head(weights, x_leaf, memory_leaf, heads, added, drop)
    their_y.backward(torch.from_numpy(dy))

    errors = {"y": _error(y, their_y), "attention_weights": _error(shares, their_shares)}
    errors["dx"] = _error(dx, x_leaf.grad)
    if dmemory is not None:
        errors["dmemory"] = _error(dmemory, memory_leaf.grad)
    return errors | _gradient_errors(ours, weights)


@one_thread()
def compare_gpt(
    config: GPTConfig, dtype: Any = np.float64, seed: int = 0, batch_size: int = 3, length: int | None = None
) -> dict[str, float]:
    """Our GPT beside its twin, in training mode, on random ids of which one target is ignored.

    length: T, by default the whole context.

    Returns:
        The relative error of "logits", "loss" and of each parameter's gradient, by its path.
    """
    torch = import_torch()
    functional = torch.nn.functional

    model = GPT(config, seed).to(dtype=dtype)
    randomise(model, seed)
    weights, drop = torch_weights(model), TorchDropout(model.generator, config.dropout)
    ids, targets = _random_batch(config, np.random.default_rng([seed, 4]), batch_size, length)
    targets[0, 0] = IGNORE_INDEX

    logits = model(ids)
    loss, saved = cross_entropy_forward(logits, targets)
    model.backward(cross_entropy_backward(1.0, saved))

    their_logits = torch_gpt(weights, config, torch.from_numpy(ids), drop)
    their_loss = functional.cross_entropy(their_logits.flatten(0, 1), torch.from_numpy(targets).flatten())
    their_loss.backward()

    errors = {"logits": _error(logits, their_logits), "loss": _error(loss, their_loss)}
    return errors | _gradient_errors(model, weights)


@one_thread()
def compare_training(
    config: GPTConfig,
    dtype: Any = np.float32,
    steps: int = 10,
    seed: int = 0,
    max_norm: float | None = None,
    learning_rate: float = 1e-2,
    weight_decay: float = 0.1,
    batch_size: int = 3,
) -> list[tuple[float, float]]:
    """Train our GPT and its twin side by side with AdamW, on one batch; matrices are decayed, vectors not.

    max_norm: clips both gradients by their global norm; None clips nothing.

    Returns:
        (our loss, their loss) of each step.
    """
    torch = import_torch()
    functional = torch.nn.functional

    model = GPT(config, seed).to(dtype=dtype)
    randomise(model, seed)
    weights, drop = torch_weights(model), TorchDropout(model.generator, config.dropout)
    ours = AdamW(model.flat, learning_rate, weight_decay=weight_decay)
    groups = [
        {"params": [w for w in weights.values() if w.ndim >= 2], "weight_decay": weight_decay},
        {"params": [w for w in weights.values() if w.ndim < 2], "weight_decay": 0.0},
    ]
    theirs = torch.optim.AdamW(groups, lr=learning_rate)
    ids, targets = _random_batch(config, np.random.default_rng([seed, 4]), batch_size)
    losses = []
    for _ in range(steps):
        model.zero_grad()
        loss, saved = cross_entropy_forward(model(ids), targets)
        model.backward(cross_entropy_backward(1.0, saved))
        theirs.zero_grad()
        their_logits = torch_gpt(weights, config, torch.from_numpy(ids), drop)
        their_loss = functional.cross_entropy(their_logits.flatten(0, 1), torch.from_numpy(targets).flatten())
        their_loss.backward()
        if max_norm is not None:
            clip_by_global_norm(model.flat.grad, max_norm)
            torch.nn.utils.clip_grad_norm_(weights.values(), max_norm)
        ours.step()
        theirs.step()
        losses.append((float(loss), their_loss.item()))
    return losses


def _random_batch(
    config: GPTConfig, rng: np.random.Generator, batch_size: int, length: int | None = None
) -> tuple[Array, Array]:
    ids, targets = rng.integers(0, config.vocab_size, (2, batch_size, length or config.context_length))
    return ids, targets


def _error(ours: Array, theirs: Tensor) -> float:
    return relative_error(ours, theirs.detach().numpy())


def _gradient_errors(module: Module, weights: Weights) -> dict[str, float]:
    """One error a parameter; infinite where either side has no gradient at all."""
    return {
        path: float("inf") if p.grad is None or weights[path].grad is None else _error(p.grad, weights[path].grad)
        for path, p in module.named_parameters()
    }
