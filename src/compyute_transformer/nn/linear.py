"""Linear: a weight, a bias, and `ops.linear`."""

from ..arrays import Array
from ..ops.linear import linear_backward, linear_forward
from ..random import Generator, default_generator
from . import init
from .module import Module
from .parameter import Parameter, is_trained

__all__ = ["Linear"]


class Linear(Module):
    """y = x Wᵀ + b.

    weight: (out_features, in_features), drawn by `weight_init`. bias: (out_features), zeros; None without.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        weight_init: init.Init | None = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        weight_init = weight_init or init.normal()
        self.weight = Parameter(weight_init((out_features, in_features), generator or default_generator()))
        self.bias = Parameter(init.zeros((out_features,))) if bias else None

    @property
    def reads_rounded(self) -> bool:
        """Whether x may be bfloat16 beside weights of float32; see `precision`."""
        return type(self) is Linear

    def forward(self, x: Array) -> Array:
        """Map (*rows, in_features) to (*rows, out_features)."""
        y, saved = linear_forward(x, self.weight.data, self.bias.data if self.bias else None)
        self.save_for_backward(saved)
        return y

    def backward(self, dy: Array) -> Array:
        """Return the gradient of x; a frozen parameter costs nothing."""
        needs = is_trained(self.weight), is_trained(self.bias)
        dx, dweight, dbias = linear_backward(dy, self.pop_saved(), *needs)
        self.weight.accumulate(dweight)
        if self.bias:
            self.bias.accumulate(dbias)
        return dx
