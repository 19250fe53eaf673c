"""Whole models beside PyTorch: logits, loss, every named gradient, and ten training losses, with dropout on.

Before a comparison all weights are drawn anew (`randomize`): scales of 1 and biases of 0 would hide a missing factor
and a missing sum, and matrices as small as a GPT starts with would hide the whole path through the scores.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..arrays import Array
from ..models.gpt import GPTConfig
from ..nn.attention import Implementation, MultiHeadAttention
from ..nn.module import Module
from ..ops.attention import NO_MASK, Mask
from ..ops.loss import IGNORE_INDEX, cross_entropy_backward, cross_entropy_forward
from ..optim import AdamW, clip_grad_norm_, decay_groups
from ..random import DROPOUT, Generator
from .registry import cotangent
from .result import relative_error
from .subjects import Batch, subject_of
from .torch_modules import Tensor, TorchDropout, Weights, torch_multi_head, torch_multi_head_module, torch_weights
from .torch_ops import dense_mask, import_torch

__all__ = [
    "compare",
    "compare_attention",
    "compare_gpt",
    "compare_model",
    "compare_training",
    "one_thread",
    "randomize",
]


def randomize(module: Module, seed: int = 0) -> None:
    """Draw all weights anew: matrices of variance 1/columns, and ±0.3 on vectors, about the values they have."""
    rng = np.random.default_rng([seed, 3])
    state = module.state_dict()
    for path, array in state.items():
        noise = rng.normal(size=array.shape)
        state[path] = noise * array.shape[-1] ** -0.5 if array.ndim > 1 else array + 0.3 * noise
    module.load_state_dict(state)


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
    """Our MultiHeadAttention beside torch.nn.MultiheadAttention; beside a kernel by hand with dropout or grouped heads.

    shape: B and T of x. memory_length: S of a memory; None for self-attention. mask: lets each query see a key, since
    torch answers NaN where there is none.

    Returns:
        The relative error of "y", "attention_weights", "dx", "dmemory" and of each parameter's gradient, by its name.
    """
    torch = import_torch()

    ours = MultiHeadAttention(
        embed_dim,
        num_heads,
        num_kv_heads,
        bias=bias,
        dropout=dropout,
        implementation=implementation,
    )
    ours.generator = Generator(seed, DROPOUT)
    ours.to(dtype=dtype)
    randomize(ours, seed)
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

    added = dense_mask(mask, T, S, x_leaf.dtype)
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


def compare(config: Any, dtype: Any = np.float64, seed: int = 0, batch_size: int = 3) -> dict[str, float]:
    """Our model of a configuration beside its kernel, in training mode, on a random batch of which one row is ignored.

    Returns:
        The relative error of "logits", "loss" and of each parameter's gradient, by its path.
    """
    model, (inputs, targets) = _prepare(config, dtype, seed, batch_size)
    targets.flat[0] = IGNORE_INDEX
    return compare_model(model, inputs, targets)


def compare_gpt(
    config: GPTConfig, dtype: Any = np.float64, seed: int = 0, batch_size: int = 3, length: int | None = None
) -> dict[str, float]:
    """`compare` of a GPT, on the first `length` positions of its context; None for all."""
    model, ((ids,), targets) = _prepare(config, dtype, seed, batch_size)
    targets.flat[0] = IGNORE_INDEX
    return compare_model(model, ids[:, :length], targets[:, :length])


@one_thread()
def compare_model(model: Any, inputs: Array | tuple[Array, ...], targets: Array) -> dict[str, float]:
    """A model as it is beside its kernel, in training mode, on given inputs and targets. Its gradients are added to.

    inputs: of its forward, one or several. Returns as `compare`.
    """
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    weights, drop = torch_weights(model), TorchDropout(model.generator, model.config.dropout)
    logits = model(*inputs)
    loss, saved = cross_entropy_forward(logits, targets)
    model.backward(cross_entropy_backward(1.0, saved))
    their_logits, their_loss = _their_loss(model.config, weights, inputs, targets, drop)
    their_loss.backward()
    errors = {"logits": _error(logits, their_logits), "loss": _error(loss, their_loss)}
    return errors | _gradient_errors(model, weights)


@one_thread()
def compare_training(
    config: Any,
    dtype: Any = np.float32,
    steps: int = 10,
    seed: int = 0,
    max_norm: float | None = None,
    learning_rate: float = 1e-2,
    weight_decay: float = 0.1,
    batch_size: int = 3,
) -> list[tuple[float, float]]:
    """Train our model and its kernel side by side with AdamW, on one batch; matrices are decayed, vectors not.

    max_norm: clips both gradients by their global norm; None clips nothing.

    Returns:
        (our loss, their loss) of each step.
    """
    torch = import_torch()

    model, (inputs, targets) = _prepare(config, dtype, seed, batch_size)
    weights, drop = torch_weights(model), TorchDropout(model.generator, config.dropout)
    ours = AdamW(decay_groups(model, weight_decay), learning_rate)
    groups = [
        {"params": [w for w in weights.values() if w.ndim >= 2], "weight_decay": weight_decay},
        {"params": [w for w in weights.values() if w.ndim < 2], "weight_decay": 0.0},
    ]
    theirs = torch.optim.AdamW(groups, lr=learning_rate)
    losses = []
    for _ in range(steps):
        model.zero_grad()
        loss, saved = cross_entropy_forward(model(*inputs), targets)
        model.backward(cross_entropy_backward(1.0, saved))
        theirs.zero_grad()
        _, their_loss = _their_loss(config, weights, inputs, targets, drop)
        their_loss.backward()
        if max_norm is not None:
            clip_grad_norm_(model.parameters(), max_norm)
            torch.nn.utils.clip_grad_norm_(weights.values(), max_norm)
        ours.step()
        theirs.step()
        losses.append((float(loss), their_loss.item()))
    return losses


def _prepare(config: Any, dtype: Any, seed: int, batch_size: int) -> tuple[Any, Batch]:
    """The model of a configuration with weights drawn anew, and a batch for it."""
    subject = subject_of(config)
    model = subject.model(config, seed).to(dtype=dtype)
    randomize(model, seed)
    return model, subject.batch(config, np.random.default_rng([seed, 4]), batch_size, dtype)


def _their_loss(
    config: Any, weights: Weights, inputs: tuple[Array, ...], targets: Array, drop: TorchDropout
) -> tuple[Tensor, Tensor]:
    """The kernel's logits, and their loss."""
    torch = import_torch()

    logits = subject_of(config).kernel(weights, config, *map(torch.from_numpy, inputs), drop)
    their_targets = torch.from_numpy(targets).flatten().long()
    return logits, torch.nn.functional.cross_entropy(logits.flatten(0, -2), their_targets)


def _error(ours: Array, theirs: Tensor) -> float:
    return relative_error(ours, theirs.detach().numpy())


def _gradient_errors(module: Module, weights: Weights) -> dict[str, float]:
    """One error a parameter; infinite where either side has no gradient at all."""
    return {
        path: float("inf") if p.grad is None or weights[path].grad is None else _error(p.grad, weights[path].grad)
        for path, p in module.named_parameters()
    }
