"""Linear: y = x Wᵀ + b, and its backward as two matrix products and a sum over rows."""

from typing import Any, NamedTuple

from jaxtyping import Float

from ..arrays import Array
from ..dispatch import dispatched, output_of
from ..errors import ShapeError, StateError
from ..precision import Precision, operands, precision
from ._checks import check_bool, check_floats, check_gradient, check_saved, check_shape
from ._sums import sum_of_rows
from .quantized import check_quantized_linear, is_quantized, quantized_linear

__all__ = ["LinearSaved", "linear", "linear_backward", "linear_forward"]


class LinearSaved(NamedTuple):
    """x: the input. weight: the matrix. has_bias: whether a bias was added, and so has a gradient.

    precision: of the products, those of the backward too.
    """

    x: Array
    weight: Array
    has_bias: bool
    precision: Precision = "float32"


def check_linear(x: Any, weight: Any, bias: Any = None) -> None:
    if is_quantized(weight):
        check_quantized_linear(x, weight, bias)
        return
    check_floats("linear", {"bias": bias}, x=x, weight=weight)
    if x.ndim < 1:
        raise ShapeError("linear: x must have at least one axis, got a scalar.")
    check_shape("linear", "weight", weight, (None, x.shape[-1]), "outputs by the last axis of x")
    if bias is not None:
        check_shape("linear", "bias", bias, (weight.shape[0],), "one number an output")


@dispatched(validate=check_linear)
def linear_forward(
    x: Float[Array, "*rows I"], weight: Float[Array, "O I"], bias: Float[Array, "O"] | None = None
) -> tuple[Float[Array, "*rows O"], LinearSaved]:
    """Multiply every row by the transposed weight and add the bias.

    y = x Wᵀ + b
    dx = dy W; dW = dyᵀ x over all rows at once; db = Σ_rows dy

    In bfloat16 the operands of the three products are rounded, x, W and dy; b and db are not. See `precision`.

    A quantized weight has no gradient, and neither has x: see `quantized_linear`.

    Shapes:
        x (*rows, I) float; weight (O, I); bias (O) or None; y (*rows, O); all of one dtype.
    Saves:
        x and weight, no copies.
    Raises:
        ShapeError: the widths do not fit. DtypeError: dtypes differ.
    Source:
        torch.nn.functional.linear: the weight is (out, in). GPT-2's own Conv1D keeps it as (in, out).
    """
    if is_quantized(weight):
        return quantized_linear(x, weight, bias), LinearSaved(x, weight, bias is not None)  # type: ignore[arg-type]
    chosen = precision()
    rows, matrix = operands(chosen, x.reshape(-1, x.shape[-1]), weight)
    y = rows @ matrix.T  # one 2-D product: a batched one would be many small ones
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], weight.shape[0]), LinearSaved(x, weight, bias is not None, chosen)


def check_linear_backward(dy: Any, saved: Any, needs_weight: Any = True, needs_bias: Any = True) -> None:
    check_saved("linear_backward", saved, LinearSaved)
    if is_quantized(saved.weight):
        raise StateError(
            f"linear_backward: weights in {saved.weight.kind} are for inference and have no backward. Load the model "
            "without weights=."
        )
    check_gradient("linear_backward", dy, saved.x, (*saved.x.shape[:-1], saved.weight.shape[0]))
    check_bool("linear_backward", "needs_weight", needs_weight)
    check_bool("linear_backward", "needs_bias", needs_bias)


@dispatched(validate=check_linear_backward)
def linear_backward(
    dy: Float[Array, "*rows O"], saved: LinearSaved, needs_weight: bool = True, needs_bias: bool = True
) -> tuple[Float[Array, "*rows I"], Float[Array, "O I"] | None, Float[Array, "O"] | None]:
    """Return the gradients of `linear_forward`: dx, dweight, dbias.

    dx = dy W; dW = dyᵀ x over all rows at once; db = Σ_rows dy

    needs_weight, needs_bias: False leaves dweight or dbias out, which is None then; so is dbias without a bias.

    Shapes:
        dy (*rows, O) as y; each gradient as its argument.
    Raises:
        ShapeError, DtypeError: dy has not the shape of y or the dtype of x. InputError: saved is of another op.
    """
    x, weight, has_bias, chosen = saved
    dy_rows, x_rows = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    dbias = sum_of_rows(dy_rows) if needs_bias and has_bias else None
    dy_rows, x_rows, weight = operands(chosen, dy_rows, x_rows, weight)
    dx = (dy_rows @ weight).reshape(x.shape)
    dweight = dy_rows.T @ x_rows if needs_weight else None
    return dx, dweight, dbias


linear = output_of("linear", linear_forward)
