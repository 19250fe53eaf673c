"""AdamW: each weight moves by its gradient's running mean, measured in its gradient's running size."""

from typing import Protocol

from ..arrays import Array, array_module
from ..dispatch import dispatched
from ..errors import ConfigError, StateError

__all__ = ["AdamW", "FlatParameters", "adamw_update"]


class FlatParameters(Protocol):
    """What an optimizer works on: one array of weights, one of gradients; the first num_decayed are decayed."""

    data: Array
    grad: Array
    num_decayed: int


def check_flat(optimizer: str, flat: object) -> None:
    """Refuse what is not a flat buffer, such as a model or a list of parameters. Raises ConfigError."""
    if not all(hasattr(flat, name) for name in ("data", "grad", "num_decayed")):
        raise ConfigError(
            f"{optimizer}: an optimizer works on the one buffer in which all parameters lie, got "
            f"{type(flat).__name__}. Give it model.flat."
        )


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
    Source:
        Kingma, Ba 2015, "Adam"; Loshchilov, Hutter 2019, "Decoupled weight decay regularization"; torch.optim.AdamW.
    """
    xp = array_module(weight)
    beta1, beta2 = betas
    first_moment *= beta1
    first_moment += (1.0 - beta1) * gradient
    second_moment *= beta2
    second_moment += (1.0 - beta2) * (gradient * gradient)
    if weight_decay:
        weight[:num_decayed] *= 1.0 - learning_rate * weight_decay
    size = xp.sqrt(second_moment)
    size *= 1.0 / (1.0 - beta2**step) ** 0.5
    size += eps
    weight -= (learning_rate / (1.0 - beta1**step)) * (first_moment / size)


class AdamW:
    """AdamW over the flat buffers of a model: `AdamW(model.flat, learning_rate=1e-3)`.

    learning_rate: may be set before each step, as a schedule does. weight_decay: on matrices only.
    """

    def __init__(
        self,
        flat: FlatParameters,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        check_flat("AdamW", flat)
        if not (learning_rate >= 0 and eps >= 0 and weight_decay >= 0 and all(0 <= beta < 1 for beta in betas)):
            raise ConfigError(
                "AdamW: learning_rate, eps and weight_decay are at least 0 and betas lie in [0, 1), got "
                f"learning_rate {learning_rate}, eps {eps}, weight_decay {weight_decay}, betas {betas}."
            )
        xp = array_module(flat.data)
        self.flat, self.learning_rate, self.betas, self.eps, self.weight_decay = (
            flat,
            learning_rate,
            betas,
            eps,
            weight_decay,
        )
        self.steps = 0
        self.first_moment = xp.zeros_like(flat.data)
        self.second_moment = xp.zeros_like(flat.data)

    def step(self) -> None:
        """Move the weights once."""
        self.steps += 1
        adamw_update(
            self.flat.data,
            self.flat.grad,
            self.first_moment,
            self.second_moment,
            self.steps,
            self.learning_rate,
            self.betas,
            self.eps,
            self.weight_decay,
            self.flat.num_decayed,
        )

    def state_dict(self) -> dict[str, Array]:
        """Copies of the moments. The number of steps taken is the caller's to keep: `steps`."""
        return {"first_moment": self.first_moment.copy(), "second_moment": self.second_moment.copy()}

    def load_state_dict(self, state: dict[str, Array], steps: int) -> None:
        """Go on where a state was taken, `steps` steps in."""
        own = {"first_moment": self.first_moment, "second_moment": self.second_moment}
        load_buffers("AdamW", own, state, steps)
        self.steps = steps


def load_buffers(name: str, own: dict[str, Array], state: dict[str, Array], steps: int) -> None:
    """Copy an optimizer's arrays in: exactly these, of exactly these shapes, or a StateError."""
    if steps < 0:
        raise StateError(f"{name}.load_state_dict: steps count those taken before, at least 0, got {steps}.")
    if {key: array.shape for key, array in own.items()} != {key: array.shape for key, array in state.items()}:
        raise StateError(
            f"{name}.load_state_dict: the state must hold {', '.join(f'{k} {a.shape}' for k, a in own.items())}, "
            f"got {', '.join(f'{k} {a.shape}' for k, a in state.items()) or 'nothing'}. "
            "Was it saved by another optimizer, or for another model?"
        )
    for key, array in own.items():
        array[...] = array_module(array).asarray(state[key])
