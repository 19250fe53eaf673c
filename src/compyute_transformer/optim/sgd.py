"""SGD: a step against the gradient, with momentum."""

from collections.abc import Mapping
from typing import Any, ClassVar

from ..errors import ConfigError
from .optimizer import Optimizer, Params, Range

__all__ = ["SGD"]


class SGD(Optimizer):
    """u ← μ u + g + λ w;   w ← w − η u

    lr: η. momentum: μ in [0, 1). weight_decay: λ, added to the gradient.

    Source: Polyak 1964; Sutskever et al. 2013; torch.optim.SGD, whose momentum is not damped either.
    """

    STATE: ClassVar[tuple[str, ...]] = ("velocity",)

    def __init__(self, params: Params, lr: float, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @staticmethod
    def _check_options(options: Mapping[str, Any]) -> None:
        lr, momentum, weight_decay = (options[name] for name in ("lr", "momentum", "weight_decay"))
        if not (lr >= 0 and weight_decay >= 0 and 0 <= momentum < 1):
            raise ConfigError(
                "SGD: lr and weight_decay are at least 0 and momentum lies in [0, 1), got "
                f"lr {lr}, momentum {momentum}, weight_decay {weight_decay}."
            )

    def _update(self, part: Range, step: int) -> None:
        (velocity,), group = part.state, part.group
        velocity *= group["momentum"]
        velocity += part.grad
        if group["weight_decay"]:
            velocity += group["weight_decay"] * part.data
        update = group["lr"] * velocity
        part.data[...] -= update.astype(part.data.dtype, copy=False)
