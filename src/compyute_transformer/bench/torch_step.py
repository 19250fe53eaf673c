"""A training step in PyTorch of the model of a workload: fused AdamW; autocast or compiled on request.

Imported only where PyTorch is installed.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..arrays import Array
from ..errors import ConfigError
from .workload import Workload

__all__ = ["TorchStep", "torch_model"]


def torch_model(work: Workload) -> Any:
    """Return the PyTorch version of the model of a workload, with weights of its own.

    Raises ConfigError where there is none.
    """
    if work.model_case.torch is None:
        raise ConfigError(f"bench: {type(work.config).__name__} has no PyTorch version to compare with.")
    module, name = work.model_case.torch.split(":")
    return getattr(import_module(f".{module}", __package__), name)(work.config)


class TorchStep:
    """A training step: the work of `workload.OurStep`, from the same weights on the same batches.

    norm: the norm of the last gradient before clipping. exact: compute it in float64, for a comparison;
    PyTorch's float32 sum of GPT-2's squares is off by 0.1%. mode: "eager", "compiled" (torch.compile) or
    "autocast" (bfloat16 in matrix products and attention, float32 weights).
    """

    def __init__(self, work: Workload, state: Mapping[str, Array], mode: str = "eager") -> None:
        training = work.training
        self.model = torch_model(work)
        self.model.load(state)
        self.device = training.device
        self.model.to(self.device)
        self.run = torch.compile(self.model) if mode == "compiled" else self.model
        self.mode, self.clip, self.norm, self.index = mode, training.clip, 0.0, 0
        self.exact = False
        self.parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in self.parameters if p.ndim >= 2], "weight_decay": training.weight_decay},
            {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        betas = (training.beta1, training.beta2)
        self.optimizer = torch.optim.AdamW(groups, lr=training.learning_rate, betas=betas, fused=True)
        self.label_smoothing = training.label_smoothing
        self.batches = [(tuple(map(self.tensor, x)), self.tensor(y)) for x, y in work.batches()]

    def tensor(self, array: Array) -> Any:
        """Return an array as a tensor on the device."""
        return torch.from_numpy(array).to(self.device)

    def __call__(self) -> float:
        """Take the step."""
        inputs, targets = self.batches[self.index % len(self.batches)]
        self.index += 1
        self.optimizer.zero_grad(set_to_none=True)
        precision: AbstractContextManager[Any] = nullcontext()
        if self.mode == "autocast":
            precision = torch.autocast(self.device, dtype=torch.bfloat16)
        with precision:
            logits = self.run(*inputs).flatten(0, -2)
            loss = F.cross_entropy(logits, targets.flatten(), label_smoothing=self.label_smoothing)
        loss.backward()
        if self.exact:
            squares = (p.grad.double().square().sum() for p in self.parameters if p.grad is not None)
            exact = float(torch.stack(list(squares)).sum().sqrt())
        if self.clip is not None:
            self.norm = nn.utils.clip_grad_norm_(self.parameters, self.clip).item()
        if self.exact:
            self.norm = exact
        self.optimizer.step()
        return float(loss.item())
