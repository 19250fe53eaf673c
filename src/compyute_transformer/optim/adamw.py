"""AdamW: each weight moves by its gradient's running mean, divided by the root of its running mean square."""

from collections.abc import Mapping
from typing import Any, ClassVar

from ..arrays import Array, array_module
from ..dispatch import dispatched
from ..errors import ConfigError
from .optimizer import Optimizer, Params, Range

__all__ = ["AdamW", "adamw_update"]


@dispatched
def adamw_update(
    weight: Array,
    gradient: Array,
    first_moment: Array,
    second_moment: Array,
    step: int,
    learning_rate: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    num_decayed: int,
) -> None:
    """One step of AdamW, in place on weight and both moments.

    m ← β₁ m + (1 − β₁) g;   v ← β₂ v + (1 − β₂) g²
    w ← w − η λ w − η m̂ / (√v̂ + ε),   m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ)

    Shapes:
        weight, gradient, moments (N) float; the first num_decayed weights are decayed by λ. step t counts from 1.
        Moments of float32 beside weights of float16: computed in float32, for ε and squares vanish in float16.
    Source:
        Kingma, Ba 2015, "Adam"; Loshchilov, Hutter 2019, "Decoupled weight decay regularization"; torch.optim.AdamW.
    """
    xp = array_module(weight)
    beta1, beta2 = betas
    gradient = gradient.astype(first_moment.dtype, copy=False)
    first_moment *= beta1
    first_moment += (1.0 - beta1) * gradient
    second_moment *= beta2
    second_moment += (1.0 - beta2) * (gradient * gradient)
    if weight_decay:
        weight[:num_decayed] *= 1.0 - learning_rate * weight_decay
    size = xp.sqrt(second_moment)
    size *= 1.0 / (1.0 - beta2**step) ** 0.5
    size += eps
    weight[...] = weight - (learning_rate / (1.0 - beta1**step)) * (first_moment / size)


class AdamW(Optimizer):
    """AdamW: `AdamW(model.parameters(), lr=1e-3)`. See `adamw_update` for the formula.

    weight_decay: λ, of all parameters of a group, as in PyTorch; `decay_groups` makes two groups of which only the
    matrices are decayed.
    """

    STATE: ClassVar[tuple[str, ...]] = ("first_moment", "second_moment")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @staticmethod
    def _check_options(options: Mapping[str, Any]) -> None:
        lr, betas, eps, weight_decay = (options[name] for name in ("lr", "betas", "eps", "weight_decay"))
        if not (lr >= 0 and eps >= 0 and weight_decay >= 0 and all(0 <= beta < 1 for beta in betas)):
            raise ConfigError(
                "AdamW: lr, eps and weight_decay are at least 0 and betas lie in [0, 1), got "
                f"lr {lr}, eps {eps}, weight_decay {weight_decay}, betas {betas}."
            )

    def _update(self, part: Range, step: int) -> None:
        options, (first_moment, second_moment) = part.group, part.state
        adamw_update(
            part.data,
            part.grad,
            first_moment,
            second_moment,
            step,
            options["lr"],
            options["betas"],
            options["eps"],
            options["weight_decay"],
            part.data.size,
        )
