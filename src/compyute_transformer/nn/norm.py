"""Norms: a scale, a shift, and `ops.layer_norm`; a scale and `ops.rms_norm`."""

from ..arrays import Array
from ..errors import ConfigError
from ..ops.norm import layer_norm_backward, layer_norm_forward, rms_norm_backward, rms_norm_forward
from . import init
from .module import Module
from .parameter import Parameter, is_trained

__all__ = [
    "LayerNorm",
    "RMSNorm",
]


class LayerNorm(Module):
    """Bring every vector to mean 0 and variance 1, then scale and shift it.

    weight: (dim), ones. bias: (dim), zeros; None without.
    """

    def __init__(self, dim: int, eps: float = 1e-5, *, bias: bool = True) -> None:
        super().__init__()
        if isinstance(eps, bool):
            raise ConfigError(f"LayerNorm: eps is a small number, got {eps}. Give bias by name: bias={eps}.")
        self.weight = Parameter(init.ones((dim,)))
        self.bias = Parameter(init.zeros((dim,))) if bias else None
        self.eps = eps

    def forward(self, x: Array) -> Array:
        """Normalize the rows of x (*rows, dim)."""
        y, saved = layer_norm_forward(x, self.weight.data, self.bias.data if self.bias else None, self.eps)
        self.save_for_backward(saved)
        return y

    def backward(self, dy: Array) -> Array:
        """Return the gradient of x; a frozen parameter costs nothing."""
        needs = is_trained(self.weight), is_trained(self.bias)
        dx, dweight, dbias = layer_norm_backward(dy, self.pop_saved(), *needs)
        self.weight.accumulate(dweight)
        if self.bias:
            self.bias.accumulate(dbias)
        return dx


class RMSNorm(Module):
    """Divide every vector by the root of its mean square, then scale it.

    weight: (dim), ones.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = Parameter(init.ones((dim,)))
        self.eps = eps

    def forward(self, x: Array) -> Array:
        """Normalize the rows of x (*rows, dim)."""
        y, saved = rms_norm_forward(x, self.weight.data, self.eps)
        self.save_for_backward(saved)
        return y

    def backward(self, dy: Array) -> Array:
        """The gradient of x."""
        dx, dweight = rms_norm_backward(dy, self.pop_saved(), is_trained(self.weight))
        self.weight.accumulate(dweight)
        return dx
