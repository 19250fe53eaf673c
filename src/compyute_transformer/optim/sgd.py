"""SGD: downhill by the gradient, with momentum."""

from ..arrays import Array, array_module
from ..errors import ConfigError
from .adamw import FlatParameters, check_flat, load_buffers

__all__ = ["SGD"]


class SGD:
    """u ← μ u + g + λ w;   w ← w − η u, over the flat buffers of a model.

    momentum: μ in [0, 1). weight_decay: λ, on matrices only, added to the gradient.

    Source: Polyak 1964; Sutskever et al. 2013; torch.optim.SGD, whose momentum is not damped either.
    """

    def __init__(
        self, flat: FlatParameters, learning_rate: float = 0.1, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        check_flat("SGD", flat)
        if not (learning_rate >= 0 and weight_decay >= 0 and 0 <= momentum < 1):
            raise ConfigError(
                "SGD: learning_rate and weight_decay are at least 0 and momentum lies in [0, 1), got "
                f"learning_rate {learning_rate}, weight_decay {weight_decay}, momentum {momentum}."
            )
        self.flat, self.learning_rate, self.momentum, self.weight_decay = flat, learning_rate, momentum, weight_decay
        self.steps = 0
        self.velocity = array_module(flat.data).zeros_like(flat.data)

    def step(self) -> None:
        """Move the weights once."""
        self.steps += 1
        self.velocity *= self.momentum
        self.velocity += self.flat.grad
        if self.weight_decay:
            decayed = self.flat.num_decayed
            self.velocity[:decayed] += self.weight_decay * self.flat.data[:decayed]
        self.flat.data -= self.learning_rate * self.velocity

    def state_dict(self) -> dict[str, Array]:
        """A copy of the velocity."""
        return {"velocity": self.velocity.copy()}

    def load_state_dict(self, state: dict[str, Array], steps: int) -> None:
        """Go on where a state was taken, `steps` steps in."""
        load_buffers("SGD", {"velocity": self.velocity}, state, steps)
        self.steps = steps
