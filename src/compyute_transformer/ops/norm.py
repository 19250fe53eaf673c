"""Norm: every vector is brought to one size, then scaled by learned amounts; layer norm shifts it as well."""

from math import inf
from typing import Any, NamedTuple

from jaxtyping import Float

from ..arrays import Array
from ..dispatch import dispatched, output_of
from ._checks import (
    check_bool,
    check_floats,
    check_gradient,
    check_last_axis,
    check_number,
    check_saved,
    check_shape,
)
from ._sums import sum_of_rows

__all__ = [
    "LayerNormSaved",
    "RmsNormSaved",
    "layer_norm",
    "layer_norm_backward",
    "layer_norm_forward",
    "rms_norm",
    "rms_norm_backward",
    "rms_norm_forward",
]


class LayerNormSaved(NamedTuple):
    """x: the input. weight: the scale. mean, rstd: each row's mean and 1/√(variance + eps). has_bias: was one added."""

    x: Array
    weight: Array
    mean: Array
    rstd: Array
    has_bias: bool


def check_layer_norm(x: Any, weight: Any, bias: Any = None, eps: Any = 1e-5) -> None:
    check_floats("layer_norm", {"bias": bias}, x=x, weight=weight)
    check_last_axis("layer_norm", "x", x)
    check_shape("layer_norm", "weight", weight, (x.shape[-1],), "the width of x")
    if bias is not None:
        check_shape("layer_norm", "bias", bias, (x.shape[-1],), "the width of x")
    check_number("layer_norm", "eps", eps, 0.0, inf)


@dispatched(validate=check_layer_norm)
def layer_norm_forward(
    x: Float[Array, "*rows C"],
    weight: Float[Array, "C"],
    bias: Float[Array, "C"] | None = None,
    eps: float = 1e-5,
) -> tuple[Float[Array, "*rows C"], LayerNormSaved]:
    """Normalize each row, then scale and shift it.

    x̂ = (x − mean(x)) · rstd, rstd = 1/√(var(x) + eps), y = x̂ · weight + bias
    dx = rstd · (dx̂ − mean(dx̂) − x̂ · mean(dx̂ · x̂)), dx̂ = dy · weight: the weight belongs inside the means
    dweight = Σ_rows dy · x̂; dbias = Σ_rows dy

    Shapes:
        x, y (*rows, C) float; weight (C); bias (C) or None; means and variance over C, the variance divided by C.
    Saves:
        x and weight, no copies; two floats a row. x̂ is rebuilt: one more pass over x instead of keeping a copy of it.
    Raises:
        ShapeError: the widths do not fit, or are 0. DtypeError: dtypes differ.
    Source:
        Ba, Kiros, Hinton 2016, "Layer normalization"; our weight and bias are their gain g and bias b.
    """
    mean = x.mean(-1, keepdims=True)
    centered = x - mean
    rstd = ((centered * centered).mean(-1, keepdims=True) + eps) ** -0.5
    y = centered * rstd * weight
    if bias is not None:
        y += bias
    return y, LayerNormSaved(x, weight, mean[..., 0], rstd[..., 0], bias is not None)


def check_layer_norm_backward(dy: Any, saved: Any, needs_weight: Any = True, needs_bias: Any = True) -> None:
    check_saved("layer_norm_backward", saved, LayerNormSaved)
    check_gradient("layer_norm_backward", dy, saved.x, saved.x.shape)
    check_bool("layer_norm_backward", "needs_weight", needs_weight)
    check_bool("layer_norm_backward", "needs_bias", needs_bias)


@dispatched(validate=check_layer_norm_backward)
def layer_norm_backward(
    dy: Float[Array, "*rows C"], saved: LayerNormSaved, needs_weight: bool = True, needs_bias: bool = True
) -> tuple[Float[Array, "*rows C"], Float[Array, "C"] | None, Float[Array, "C"] | None]:
    """Return the gradients of `layer_norm_forward`: dx, dweight, dbias.

    dx = rstd · (dx̂ − mean(dx̂) − x̂ · mean(dx̂ · x̂)), dx̂ = dy · weight; dweight = Σ_rows dy · x̂; dbias = Σ_rows dy

    needs_weight, needs_bias: False leaves dweight or dbias out, which is None then; so is dbias without a bias.

    Shapes:
        dy (*rows, C) as y; each gradient as its argument.
    Raises:
        ShapeError, DtypeError: dy has not the shape or the dtype of x. InputError: saved is of another op.
    """
    x, weight, mean, rstd, has_bias = saved
    rstd = rstd[..., None]
    xhat = (x - mean[..., None]) * rstd
    dxhat = dy * weight
    dx = rstd * (dxhat - dxhat.mean(-1, keepdims=True) - xhat * (dxhat * xhat).mean(-1, keepdims=True))
    dweight = sum_of_rows(dy * xhat) if needs_weight else None
    dbias = sum_of_rows(dy) if needs_bias and has_bias else None
    return dx, dweight, dbias


layer_norm = output_of("layer_norm", layer_norm_forward)


class RmsNormSaved(NamedTuple):
    """x: the input. weight: the scale. rrms: each row's 1/√(mean(x²) + eps)."""

    x: Array
    weight: Array
    rrms: Array


def check_rms_norm(x: Any, weight: Any, eps: Any = 1e-6) -> None:
    check_floats("rms_norm", x=x, weight=weight)
    check_last_axis("rms_norm", "x", x)
    check_shape("rms_norm", "weight", weight, (x.shape[-1],), "the width of x")
    check_number("rms_norm", "eps", eps, 0.0, inf)


@dispatched(validate=check_rms_norm)
def rms_norm_forward(
    x: Float[Array, "*rows C"], weight: Float[Array, "C"], eps: float = 1e-6
) -> tuple[Float[Array, "*rows C"], RmsNormSaved]:
    """Divide each row by the root of the mean of its squares, then scale it. No mean is subtracted, nothing is added.

    x̂ = x · rrms, rrms = 1/√(mean(x²) + eps), y = x̂ · weight
    dx = rrms · (dx̂ − x̂ · mean(dx̂ · x̂)), dx̂ = dy · weight
    dweight = Σ_rows dy · x̂

    Shapes:
        x, y (*rows, C) float; weight (C); the mean is over C.
    Saves:
        x and weight, no copies; one float a row.
    Raises:
        ShapeError: the widths do not fit, or are 0. DtypeError: dtypes differ.
    Source:
        Zhang, Sennrich 2019, "Root mean square layer normalization"; our weight is their gain g. Used by Llama.
    """
    rrms = ((x * x).mean(-1, keepdims=True) + eps) ** -0.5
    return x * rrms * weight, RmsNormSaved(x, weight, rrms[..., 0])


def check_rms_norm_backward(dy: Any, saved: Any, needs_weight: Any = True) -> None:
    check_saved("rms_norm_backward", saved, RmsNormSaved)
    check_gradient("rms_norm_backward", dy, saved.x, saved.x.shape)
    check_bool("rms_norm_backward", "needs_weight", needs_weight)


@dispatched(validate=check_rms_norm_backward)
def rms_norm_backward(
    dy: Float[Array, "*rows C"], saved: RmsNormSaved, needs_weight: bool = True
) -> tuple[Float[Array, "*rows C"], Float[Array, "C"] | None]:
    """Return the gradients of `rms_norm_forward`: dx, dweight.

    dx = rrms · (dx̂ − x̂ · mean(dx̂ · x̂)), dx̂ = dy · weight; dweight = Σ_rows dy · x̂

    needs_weight: False leaves dweight out, which is None then.

    Shapes:
        dy (*rows, C) as y; each gradient as its argument.
    Raises:
        ShapeError, DtypeError: dy has not the shape or the dtype of x. InputError: saved is of another op.
    """
    x, weight, rrms = saved
    rrms = rrms[..., None]
    xhat = x * rrms
    dxhat = dy * weight
    dx = rrms * (dxhat - xhat * (dxhat * xhat).mean(-1, keepdims=True))
    return dx, sum_of_rows(dy * xhat) if needs_weight else None


rms_norm = output_of("rms_norm", rms_norm_forward)
