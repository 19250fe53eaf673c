"""AdamW: each weight moves by its gradient's running mean, divided by the root of its running mean square."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, ClassVar, NamedTuple

from ..arrays import Array, array_module
from ..dispatch import dispatched
from ..errors import ConfigError, InputError, RangeError, ShapeError
from .optimizer import Optimizer, Params, Range, check_fraction, check_not_negative

__all__ = ["AdamW", "AdamWOptions", "adamw_update"]


class AdamWOptions(NamedTuple):
    """lr: η, the learning rate. betas: β₁, β₂. eps: ε. weight_decay: λ."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01


def check_options(options: Any) -> None:
    """Raise a ConfigError for the first option that is out of range. options: `AdamWOptions`."""
    for name in ("lr", "eps", "weight_decay"):
        check_not_negative("AdamW", name, getattr(options, name))
    betas = options.betas
    if not isinstance(betas, (tuple, Sequence)) or len(betas) != 2:
        raise ConfigError(f"AdamW: betas are two numbers in [0, 1), such as (0.9, 0.999), got {betas!r}.")
    for index, beta in enumerate(betas):
        check_fraction("AdamW", f"betas[{index}]", beta)


def check_adamw_update(
    weight: Any, gradient: Any, first_moment: Any, second_moment: Any, step: Any, options: Any
) -> None:
    arrays = weight, gradient, first_moment, second_moment
    shapes = [getattr(array, "shape", type(array).__name__) for array in arrays]
    if shapes.count(shapes[0]) < len(shapes) or isinstance(shapes[0], str):
        came = ", ".join(map(str, shapes))
        raise ShapeError(f"adamw_update: weight, gradient and both moments are arrays of one shape, got {came}.")
    if not isinstance(step, (int, Integral)) or step < 1:
        raise RangeError(f"adamw_update: step is a whole number of at least 1, counted from 1, got {step!r}.")
    if not isinstance(options, AdamWOptions):
        raise InputError(
            f"adamw_update: options are AdamWOptions, got {type(options).__name__}. Give AdamWOptions(lr=...)."
        )
    check_options(options)


@dispatched(validate=check_adamw_update, in_place=True)
def adamw_update(
    weight: Array, gradient: Array, first_moment: Array, second_moment: Array, step: int, options: AdamWOptions
) -> None:
    """Take one step of AdamW, in place on weight and both moments.

    m ← β₁ m + (1 − β₁) g;   v ← β₂ v + (1 − β₂) g²
    w ← w − η λ w − η m̂ / (√v̂ + ε),   m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ)

    Shapes:
        weight, gradient, moments (N) float. step t counts from 1.
        Moments of float32 beside weights of float16: computed in float32, for ε and squares vanish in float16.
    Raises:
        ShapeError: the arrays have different shapes. RangeError: a step below 1. ConfigError: an option out of range.
    Source:
        Kingma, Ba 2015, "Adam"; Loshchilov, Hutter 2019, "Decoupled weight decay regularization"; torch.optim.AdamW.
    """
    xp = array_module(weight)
    lr, (beta1, beta2), eps, weight_decay = options
    gradient = gradient.astype(first_moment.dtype, copy=False)
    first_moment *= beta1
    first_moment += (1.0 - beta1) * gradient
    second_moment *= beta2
    second_moment += (1.0 - beta2) * (gradient * gradient)
    if weight_decay:
        weight *= 1.0 - lr * weight_decay
    size = xp.sqrt(second_moment)
    size *= 1.0 / (1.0 - beta2**step) ** 0.5
    size += eps
    weight[...] = weight - (lr / (1.0 - beta1**step)) * (first_moment / size)


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
        check_options(_options_of(options))

    def _update(self, part: Range, step: int) -> None:
        first_moment, second_moment = part.state
        adamw_update(part.data, part.grad, first_moment, second_moment, step, _options_of(part.group))


def _options_of(group: Mapping[str, Any]) -> AdamWOptions:
    return AdamWOptions._make(map(group.__getitem__, AdamWOptions._fields))
