"""Parameter: an array that is learned, and its gradient."""

import weakref
from typing import Any

from ..arrays import Array, array_module
from ..errors import DtypeError, ShapeError
from ..ops.quantized import is_quantized
from ..optim.flat import Place

__all__ = ["Parameter", "is_trained"]


class Parameter:
    """An array that is learned, and the sum of the gradients it was given since they were last zeroed.

    data: the values. grad: the gradient, of the same shape and dtype; None before the first one arrives. requires_grad:
    whether it is trained; a frozen parameter gets no gradient and no update.

    place: the parameter's place in a flat buffer, which the library uses and users need not know; see `optim.flat`.

    Raises:
        DtypeError: the data are no array of floats.
    """

    def __init__(self, data: Array, requires_grad: bool = True) -> None:
        if getattr(getattr(data, "dtype", None), "kind", None) not in ("f", "c", "V"):  # V: bfloat16
            came = getattr(data, "dtype", type(data).__name__)
            raise DtypeError(
                f"Parameter: data is an array of floats, got {came}. Convert it with np.asarray(x, float)."
            )
        self.data = data
        self.grad: Array | None = None
        self.requires_grad = requires_grad
        self.place: Place | None = None
        self.owner: tuple[weakref.ref[Any], str] | None = None
        self.optimizers: weakref.WeakSet[Any] = weakref.WeakSet()

    def accumulate(self, gradient: Array | None) -> None:
        """Add to the gradient. A parameter used twice, or in two half batches, gets the sum; a frozen one gets none."""
        if not self.requires_grad:
            return
        if gradient is None or gradient.shape != self.data.shape:
            came = None if gradient is None else tuple(gradient.shape)
            raise ShapeError(f"{self.path}: a gradient has the parameter's shape {tuple(self.data.shape)}, got {came}.")
        if self.grad is not None:
            self.grad += gradient
        elif self.place is not None and self.data is self.place.data:
            self.grad = self.place.buffer.place_for_gradient(self)
            self.grad[...] = gradient
        else:
            self.grad = gradient.astype(self.data.dtype, copy=True)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradient, or fill it with zeros."""
        if set_to_none:
            self.grad = None
        elif self.grad is not None:
            self.grad.fill(0)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    def numel(self) -> int:
        """Return the number of elements, by PyTorch's name."""
        return self.data.size

    @property
    def path(self) -> str:
        """The name in the model, "blocks.0.up.weight"; "Parameter" where no module has it."""
        module = self.owner and self.owner[0]()
        if not module or not self.owner:
            return "Parameter"
        return f"{module.path}.{self.owner[1]}" if module.path else self.owner[1]

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle takes along: its own values, neither the buffer, nor modules or optimizers."""
        if is_quantized(self.data):
            return {"data": self.data, "grad": None, "requires_grad": False}
        xp = array_module(self.data)
        grad = None if self.grad is None else xp.array(self.grad)
        return {"data": xp.array(self.data), "grad": grad, "requires_grad": self.requires_grad}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, place=None, owner=None, optimizers=weakref.WeakSet())

    def __repr__(self) -> str:
        frozen = "" if self.requires_grad else ", requires_grad=False"
        return f"Parameter(shape={tuple(self.shape)}, dtype={self.dtype}{frozen})"


def is_trained(parameter: Parameter | None) -> bool:
    """Return whether a parameter is there and not frozen, so that a backward has to compute its gradient."""
    return parameter is not None and parameter.requires_grad
