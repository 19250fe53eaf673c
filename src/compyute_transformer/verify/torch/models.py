"""Whole models in PyTorch: logits, loss and every named gradient, and ten steps of training.

The PyTorch version of a model is `torch/NAME.py`, found by the name of its record in `models/registry.py`.
"""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from ...arrays import Array
from ...errors import ConfigError
from ...models.registry import ModelRecord, record_of
from ...ops.loss import cross_entropy_backward, cross_entropy_forward
from ...optim import AdamW, clip_grad_norm_, decay_groups
from ..record import Tensor, Weights
from ..result import Outcome, outcome_of
from .base import functional, import_torch, one_thread
from .modules import TorchDropout, torch_weights

__all__ = ["Recipe", "torch_missing", "torch_outcome", "train_beside_torch"]


def torch_missing(record: ModelRecord) -> str | None:
    """Return why there is no comparison with PyTorch; None where there is one."""
    if find_spec(f"{__package__}.{record.name}") is not None:
        return None
    return f"There is no PyTorch version of this model, verify/torch/{record.name}.py."


def torch_logits(model: Any, weights: Weights, inputs: Sequence[Tensor], drop: TorchDropout) -> Tensor:
    """Return the logits of the PyTorch version of a model."""
    record = record_of(model)
    if missing := torch_missing(record):
        raise ConfigError(f"verify: {missing}")
    logits = import_module(f"{__package__}.{record.name}").logits
    return logits(weights, model.config, *inputs, drop)


def torch_loss(logits: Tensor, targets: Array) -> Tensor:
    """Return the cross-entropy of logits at targets."""
    return functional().cross_entropy(logits.flatten(0, -2), import_torch().from_numpy(targets).flatten().long())


@one_thread()
def torch_outcome(model: Any, inputs: tuple[Array, ...], targets: Array) -> Outcome:
    """Return logits, loss and the gradients of the parameters, by their paths, and of images, by PyTorch.

    It drops what the model will drop next.
    """
    torch = import_torch()
    weights, drop = torch_weights(model), TorchDropout(model.generator, model.config.dropout)
    tensors = [torch.from_numpy(x).requires_grad_(x.dtype.kind == "f") for x in inputs]
    logits = torch_logits(model, weights, tensors, drop)
    loss = torch_loss(logits, targets)
    loss.backward()
    leaves = weights | dict(zip(["images"], [x for x in tensors if x.requires_grad], strict=False))
    gradients = {name: None if leaf.grad is None else leaf.grad.numpy() for name, leaf in leaves.items()}
    found = outcome_of(loss.detach().numpy(), gradients)
    return {"logits": logits.detach().numpy(), "loss": found["y"], **{n: g for n, g in found.items() if n != "y"}}


class Recipe(NamedTuple):
    """How a model is trained on one batch by AdamW; matrices are decayed, vectors not.

    max_norm: clips the gradients by their global norm; None clips nothing. eps: larger than usual, since a gradient
    that is zero but for rounding, such as that of the keys' bias, must not become a step of the size of its noise.
    """

    steps: int = 10
    lr: float = 1e-2
    weight_decay: float = 0.1
    eps: float = 1e-4
    max_norm: float | None = None


@one_thread()
def train_beside_torch(
    model: Any, inputs: tuple[Array, ...], targets: Array, recipe: Recipe | None = None
) -> tuple[Outcome, Outcome]:
    """Train a model and its PyTorch version side by side.

    Return the losses of all steps and the weights after the last, ours and theirs.
    """
    torch = import_torch()
    steps, lr, weight_decay, eps, max_norm = recipe or Recipe()
    weights, drop = torch_weights(model), TorchDropout(model.generator, model.config.dropout)
    groups = [
        {"params": [w for w in weights.values() if w.ndim >= 2], "weight_decay": weight_decay},
        {"params": [w for w in weights.values() if w.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer, torch_optimizer = (
        AdamW(decay_groups(model, weight_decay), lr, eps=eps),
        torch.optim.AdamW(groups, lr=lr, eps=eps),
    )
    tensors = [torch.from_numpy(x) for x in inputs]
    ours: dict[str, Array | None] = {}
    theirs: dict[str, Array | None] = {}
    for step in range(1, steps + 1):
        model.zero_grad()
        loss, saved = cross_entropy_forward(model(*inputs), targets)
        model.backward(cross_entropy_backward(1.0, saved))
        torch_optimizer.zero_grad()
        their_loss = torch_loss(torch_logits(model, weights, tensors, drop), targets)
        their_loss.backward()
        if max_norm is not None:
            clip_grad_norm_(model.parameters(), max_norm)
            torch.nn.utils.clip_grad_norm_(weights.values(), max_norm)
        optimizer.step()
        torch_optimizer.step()
        ours[f"loss of step {step}"], theirs[f"loss of step {step}"] = np.asarray(loss), their_loss.detach().numpy()
    after = f"after {steps} steps"
    ours |= {f"{path} {after}": array for path, array in model.state_dict().items()}
    theirs |= {f"{path} {after}": w.detach().numpy() for path, w in weights.items()}
    return ours, theirs
