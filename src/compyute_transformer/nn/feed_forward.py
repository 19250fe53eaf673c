"""Feed-forward: up to a wider space, an activation or a gate, and down again."""

from typing import get_args

from ..arrays import Array
from ..errors import ConfigError
from ..ops.activation import (
    ACTIVATIONS,
    Activation,
    Gate,
    gated_activation_backward,
    gated_activation_forward,
)
from ..random import Generator
from . import init
from .fused import backward_at_once, forward_at_once, or_at_once
from .linear import Linear
from .module import Module

__all__ = ["Activation", "FeedForward", "Gate", "GatedFeedForward"]


class FeedForward(Module):
    """y = down(activation(up(x))).

    up: Linear from embed_dim to mlp_dim. down: Linear back. activation: "gelu_tanh" (GPT-2), "gelu" (exact) or "relu".
    weight_init: of both weights, or a pair: of up and of down.
    """

    def __init__(
        self,
        embed_dim: int,
        mlp_dim: int,
        *,
        bias: bool = True,
        activation: Activation = "gelu_tanh",
        weight_init: init.Inits | None = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        if activation not in get_args(Activation):
            raise ConfigError(
                f"FeedForward: an activation is one of {', '.join(get_args(Activation))}, got {activation!r}."
            )
        self.activation = activation
        up_init, down_init = init.both(weight_init)
        self.up = Linear(embed_dim, mlp_dim, bias=bias, weight_init=up_init, generator=generator)
        self.down = Linear(mlp_dim, embed_dim, bias=bias, weight_init=down_init, generator=generator)

    @property
    def reads_rounded(self) -> bool:
        """Whether x may be bfloat16 beside weights of float32; see `precision`."""
        parts = self.up, self.down
        return type(self) is FeedForward and all(getattr(part, "reads_rounded", False) for part in parts)

    @or_at_once(forward_at_once)
    def forward(self, x: Array) -> Array:
        """Map (*rows, embed_dim) to the same shape."""
        activation, _ = ACTIVATIONS[self.activation]
        hidden, saved = activation(self.up(x))
        self.save_for_backward(saved)
        return self.down(hidden)

    @or_at_once(backward_at_once)
    def backward(self, dy: Array) -> Array:
        """Return the gradient of x."""
        _, activation_backward = ACTIVATIONS[self.activation]
        dhidden = self.down.backward(dy)
        return self.up.backward(activation_backward(dhidden, self.pop_saved()))


class GatedFeedForward(Module):
    """y = down(activation(gate(x)) · up(x)); with "silu" it is SwiGLU.

    gate, up: Linear from embed_dim to mlp_dim. down: Linear back. activation: "silu" (Llama), "gelu" or "gelu_tanh".
    weight_init: of all weights, or a pair: of gate and up, and of down.
    """

    def __init__(
        self,
        embed_dim: int,
        mlp_dim: int,
        *,
        bias: bool = False,
        activation: Gate = "silu",
        weight_init: init.Inits | None = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        if activation not in get_args(Gate):
            raise ConfigError(
                f"GatedFeedForward: an activation is one of {', '.join(get_args(Gate))}, got {activation!r}."
            )
        self.activation = activation
        up_init, down_init = init.both(weight_init)
        self.gate = Linear(embed_dim, mlp_dim, bias=bias, weight_init=up_init, generator=generator)
        self.up = Linear(embed_dim, mlp_dim, bias=bias, weight_init=up_init, generator=generator)
        self.down = Linear(mlp_dim, embed_dim, bias=bias, weight_init=down_init, generator=generator)

    @property
    def reads_rounded(self) -> bool:
        """Whether x may be bfloat16 beside weights of float32; see `precision`."""
        parts = self.gate, self.up, self.down
        return type(self) is GatedFeedForward and all(getattr(part, "reads_rounded", False) for part in parts)

    def forward(self, x: Array) -> Array:
        """Map (*rows, embed_dim) to the same shape."""
        hidden, saved = gated_activation_forward(self.gate(x), self.up(x), self.activation)
        self.save_for_backward(saved)
        return self.down(hidden)

    def backward(self, dy: Array) -> Array:
        """The gradient of x."""
        dhidden = self.down.backward(dy)
        dgate, dup = gated_activation_backward(dhidden, self.pop_saved())
        return self.up.backward(dup) + self.gate.backward(dgate)
