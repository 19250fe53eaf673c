"""Feed-forward: up to a wider space, an activation or a gate, and down again."""

from typing import Any, NamedTuple, get_args

from ..arrays import Array, device_of
from ..dispatch import is_intercepted, kernels_of
from ..errors import ConfigError
from ..ops.activation import (
    ACTIVATIONS,
    Activation,
    Gate,
    gated_activation_backward,
    gated_activation_forward,
    gelu_forward,
)
from ..ops.linear import linear_forward
from ..random import Generator
from . import init
from .linear import Linear
from .module import Module
from .parameter import is_trained

__all__ = ["Activation", "FeedForward", "Gate", "GatedFeedForward"]


class Fused(NamedTuple):
    """kernels: which computed a forward at once. saved: what their backward needs."""

    kernels: Any
    saved: Any


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

    def _fused(self, x: Array) -> Any:
        """Return the kernels that compute the whole at once on a GPU, forward and backward, where they can; or None.

        They leave out `up` and `down`, so these must be plain linear layers that nobody observes.
        """
        parts = self.up, self.down
        if not self.training or device_of(x) == "cpu" or self.activation != "gelu_tanh" or is_intercepted():
            return None
        plain = all(type(part) is Linear and not part._observers for part in parts)
        if not plain or any(op.runs("cuda") != "cuda" for op in (linear_forward, gelu_forward)):
            return None
        kernels = kernels_of("cuda", "feed_forward")
        return kernels if kernels.supports(x, self.up.weight.data, self.down.weight.data) else None

    def forward(self, x: Array) -> Array:
        """Map (*rows, embed_dim) to the same shape."""
        kernels = self._fused(x)
        if kernels is not None:
            weights = ((part.weight.data, part.bias.data if part.bias else None) for part in (self.up, self.down))
            (up, up_bias), (down, down_bias) = weights
            y: Array
            y, saved = kernels.feed_forward_forward(x, up, up_bias, down, down_bias)
            self.save_for_backward(Fused(kernels, saved))
            return y
        activation, _ = ACTIVATIONS[self.activation]
        hidden, saved = activation(self.up(x))
        self.save_for_backward(saved)
        return self.down(hidden)

    def backward(self, dy: Array) -> Array:
        """Return the gradient of x."""
        saved = self.pop_saved()
        if isinstance(saved, Fused):
            return self._fused_backward(dy, saved)
        _, activation_backward = ACTIVATIONS[self.activation]
        dhidden = self.down.backward(dy)
        return self.up.backward(activation_backward(dhidden, saved))

    def _fused_backward(self, dy: Array, fused: Fused) -> Array:
        parameters = self.up.weight, self.up.bias, self.down.weight, self.down.bias
        dx: Array
        dx, *gradients = fused.kernels.feed_forward_backward(dy, fused.saved, tuple(map(is_trained, parameters)))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if parameter is not None:
                parameter.accumulate(gradient)
        return dx


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
