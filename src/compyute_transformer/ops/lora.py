"""LoRA: a change of a weight matrix as the product of two narrow ones, which are trained in its place."""

from typing import Any, NamedTuple

from jaxtyping import Float

from ..arrays import Array
from ..dispatch import dispatched, output_of
from ._checks import check_bool, check_floats, check_gradient, check_last_axis, check_number, check_saved, check_shape
from .linear import LinearSaved, linear_backward, linear_forward

__all__ = ["LoRASaved", "lora", "lora_backward", "lora_forward"]

LARGEST_SCALE = 1e6


class LoRASaved(NamedTuple):
    """inner: the product with a. outer: the product with b. scale: the factor between them."""

    inner: LinearSaved
    outer: LinearSaved
    scale: float


def check_lora(x: Any, a: Any, b: Any, scale: Any = 1.0) -> None:
    check_floats("lora", x=x, a=a, b=b)
    check_last_axis("lora", "x", x)
    check_shape("lora", "a", a, (None, x.shape[-1]), "rank by the last axis of x")
    check_shape("lora", "b", b, (None, a.shape[0]), "outputs by the rank, the rows of a")
    check_number("lora", "scale", scale, -LARGEST_SCALE, LARGEST_SCALE)


@dispatched(validate=check_lora)
def lora_forward(
    x: Float[Array, "*rows I"], a: Float[Array, "R I"], b: Float[Array, "O R"], scale: float = 1.0
) -> tuple[Float[Array, "*rows O"], LoRASaved]:
    """Multiply every row by a matrix of rank R, given as two factors; added to a linear map, it adapts its weight.

    h = scale · x aᵀ, y = h bᵀ, which is scale · x (b a)ᵀ
    dh = dy b; dx = scale · dh a; da = scale · Σ_rows dhᵀ x; db = Σ_rows dyᵀ h

    Shapes:
        x (*rows, I) float; a (R, I); b (O, R); y (*rows, O); all of one dtype.
    Saves:
        x, a and b, no copies; h, (*rows, R).
    Raises:
        ShapeError: the widths do not fit. DtypeError: dtypes differ. RangeError: scale is not a number below 10⁶.
    Source:
        Hu et al. 2021, "LoRA: low-rank adaptation of large language models", section 4.1: scale is their α/r.
    """
    h, inner = linear_forward(x, a)
    h = h * h.dtype.type(scale)
    y, outer = linear_forward(h, b)
    return y, LoRASaved(inner, outer, scale)


def check_lora_backward(dy: Any, saved: Any, needs_a: Any = True, needs_b: Any = True) -> None:
    check_saved("lora_backward", saved, LoRASaved)
    x, b = saved.inner.x, saved.outer.weight
    check_gradient("lora_backward", dy, x, (*x.shape[:-1], b.shape[0]))
    check_bool("lora_backward", "needs_a", needs_a)
    check_bool("lora_backward", "needs_b", needs_b)


@dispatched(validate=check_lora_backward)
def lora_backward(
    dy: Float[Array, "*rows O"], saved: LoRASaved, needs_a: bool = True, needs_b: bool = True
) -> tuple[Float[Array, "*rows I"], Float[Array, "R I"] | None, Float[Array, "O R"] | None]:
    """Return the gradients of `lora_forward`: dx, da, db.

    dh = dy b; dx = scale · dh a; da = scale · Σ_rows dhᵀ x; db = Σ_rows dyᵀ h

    needs_a, needs_b: False leaves da or db out, which is None then.

    Shapes:
        dy (*rows, O) as y; each gradient as its argument.
    Raises:
        ShapeError, DtypeError: dy has not the shape of y or the dtype of x. InputError: saved is of another op.
    """
    inner, outer, scale = saved
    dh, db, _ = linear_backward(dy, outer, needs_b)
    dh = dh * dh.dtype.type(scale)
    dx, da, _ = linear_backward(dh, inner, needs_a)
    return dx, da, db


lora = output_of("lora", lora_forward)
