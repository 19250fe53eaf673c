"""SGD: a step against the gradient, with momentum."""

from collections.abc import Mapping
from typing import Any, ClassVar

from .optimizer import Optimizer, Params, Range, check_fraction, check_not_negative

__all__ = ["SGD"]


class SGD(Optimizer):
    """Stochastic gradient descent with momentum: `SGD(model.parameters(), lr=0.1)`.

    u ← μ u + g + λ w;   w ← w − η u

    lr: η. momentum: μ in [0, 1). weight_decay: λ, added to the gradient.

    Source: Polyak 1964; Sutskever et al. 2013; torch.optim.SGD, whose momentum is not damped either.
    """

    STATE: ClassVar[tuple[str, ...]] = ("velocity",)

    def __init__(self, params: Params, lr: float, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @staticmethod
    def _check_options(options: Mapping[str, Any]) -> None:
        check_not_negative("SGD", "lr", options["lr"])
        check_not_negative("SGD", "weight_decay", options["weight_decay"])
        check_fraction("SGD", "momentum", options["momentum"])

    def _update(self, part: Range, step: int) -> None:
        (velocity,), group = part.state, part.group
        velocity *= group["momentum"]
        velocity += part.grad
        if group["weight_decay"]:
            velocity += group["weight_decay"] * part.data
        update = group["lr"] * velocity
        part.data[...] -= update.astype(part.data.dtype, copy=False)
