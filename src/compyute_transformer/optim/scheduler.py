"""Schedulers by PyTorch's names: they set the learning rates of an optimizer's groups when `step()` is called."""

from collections.abc import Callable, Sequence
from math import cos, pi
from typing import Any

from ..errors import ConfigError
from .optimizer import Optimizer

__all__ = ["CosineAnnealingLR", "LambdaLR"]


class _Scheduler:
    """The base: counts the steps, and sets lr = initial_lr · factor in every group."""

    def __init__(self, optimizer: Optimizer) -> None:
        if not hasattr(optimizer, "param_groups"):
            raise ConfigError(f"{type(self).__name__}: optimizer is an Optimizer, got {type(optimizer).__name__}.")
        self.optimizer = optimizer
        self.last_epoch = 0
        self.base_lrs = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
        self._set_rates()

    def rate(self, base: float, index: int, step: int) -> float:
        """Return the learning rate of a group at a step, counted from 0."""
        raise NotImplementedError

    def step(self) -> None:
        """Go on to the next learning rate; call it after `optimizer.step()`."""
        self.last_epoch += 1
        self._set_rates()

    def _set_rates(self) -> None:
        for index, (group, base) in enumerate(zip(self.optimizer.param_groups, self.base_lrs, strict=False)):
            group["lr"] = self.rate(base, index, self.last_epoch)

    def get_last_lr(self) -> list[float]:
        """Return the learning rate of each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return the step and the initial learning rates."""
        return {"last_epoch": self.last_epoch, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at the step where a state was taken."""
        self.last_epoch, self.base_lrs = state["last_epoch"], list(state["base_lrs"])
        self._set_rates()


class LambdaLR(_Scheduler):
    """lr = initial_lr · f(step), with one function for all groups or a list of one for each."""

    def __init__(
        self, optimizer: Optimizer, lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]]
    ) -> None:
        groups = len(getattr(optimizer, "param_groups", ()))
        self.lambdas = [lr_lambda] * groups if callable(lr_lambda) else list(lr_lambda)
        if groups and len(self.lambdas) != groups:
            raise ConfigError(f"LambdaLR: one function for each of the {groups} groups, got {len(self.lambdas)}.")
        super().__init__(optimizer)

    def rate(self, base: float, index: int, step: int) -> float:
        return base * self.lambdas[index](step)


class CosineAnnealingLR(_Scheduler):
    """lr = eta_min + ½ (initial_lr − eta_min) (1 + cos(π step / T_max)).

    Source: Loshchilov, Hutter 2017, "SGDR".
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        if not T_max >= 1:
            raise ConfigError(f"CosineAnnealingLR: T_max is at least 1, got {T_max}.")
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer)

    def rate(self, base: float, index: int, step: int) -> float:
        return self.eta_min + 0.5 * (base - self.eta_min) * (1.0 + cos(pi * step / self.T_max))
