"""Norm on a GPU: a warp a row forward, sums over rows without atomics backward; see `norm.cu`.

Optimization history:

1. CuPy: eight kernels forward, twelve backward, each a pass over (N, C). 2. One kernel forward. 3. Backward in one
sweep over the rows and one over the partial sums. 4. y in bfloat16 from an x of float32, where products alone read it;
no time was measured yet, since the first GPU is still to come.
"""

from typing import Any

import numpy as np

from ..arrays import Array, array_module
from ..dispatch import kernel_for
from ..ops.norm import (
    LayerNormSaved,
    RmsNormSaved,
    layer_norm_backward,
    layer_norm_forward,
    rms_norm_backward,
    rms_norm_forward,
)
from ..precision import rounds_results
from ._kernel import NULL, is_contiguous, is_ready, kernel, of_one_shape, rows_of, threads_for_row, vector_for
from ._rounded import bfloat16

__all__ = [
    "layer_norm_backward_kernel",
    "layer_norm_forward_kernel",
    "residual_layer_norm_backward",
    "residual_layer_norm_forward",
    "residual_rms_norm_backward",
    "residual_rms_norm_forward",
    "rms_norm_backward_kernel",
    "rms_norm_forward_kernel",
]

FORWARD_WARPS = 4  # rows a block
MOST_PARTIALS = 1024  # blocks of a backward, each with partial sums of its own
WIDEST = 6144  # whose two sums take the 48 kB of shared memory that every block may have


def residual_layer_norm_forward(
    x: Array, residual: Array | None, weight: Array, bias: Array | None, eps: float = 1e-5
) -> tuple[Array, LayerNormSaved]:
    """Return the layer norm of x + residual, and what its backward needs; `saved.x` is the sum."""
    xp, C = array_module(x), x.shape[-1]
    y, (mean, rstd) = xp.empty(x.shape, x.dtype), (xp.empty(x.shape[:-1], np.float32) for _ in range(2))
    total = x if residual is None else xp.empty(x.shape, x.dtype)
    given = x, _or_null(residual), weight, _or_null(bias), NULL if residual is None else total
    rows = rows_of(x)
    kernel("norm", "layer_norm_forward", x.dtype)(
        (-(-rows // FORWARD_WARPS),),
        (32 * FORWARD_WARPS,),
        (*given, y, mean, rstd, np.int32(rows), np.int32(C), np.float32(eps), vector_for(C, *given, y)),
    )
    return y, LayerNormSaved(total, weight, mean, rstd, bias is not None)


def residual_rms_norm_forward(
    x: Array, residual: Array | None, weight: Array, eps: float = 1e-6
) -> tuple[Array, RmsNormSaved]:
    """Return the RMS norm of x + residual, and what its backward needs; `saved.x` is the sum."""
    xp, C = array_module(x), x.shape[-1]
    y, rrms = xp.empty(x.shape, x.dtype), xp.empty(x.shape[:-1], np.float32)
    total = x if residual is None else xp.empty(x.shape, x.dtype)
    given = x, _or_null(residual), weight, NULL if residual is None else total
    rows = rows_of(x)
    kernel("norm", "rms_norm_forward", x.dtype)(
        (-(-rows // FORWARD_WARPS),),
        (32 * FORWARD_WARPS,),
        (*given, y, rrms, np.int32(rows), np.int32(C), np.float32(eps), vector_for(C, *given, y)),
    )
    return y, RmsNormSaved(total, weight, rrms)


def residual_layer_norm_backward(
    dy: Array, skip: Array | None, saved: LayerNormSaved, needs_weight: bool = True, needs_bias: bool = True
) -> tuple[Array, Array | None, Array | None]:
    """Return the gradients of x, which are also those of the residual, of the weight and of the bias.

    skip: the gradient that reached x + residual past the norm; it is added to dx.
    """
    x, weight, mean, rstd, has_bias = saved
    needs_bias = needs_bias and has_bias
    dx, partials = _backward("layer_norm_backward", dy, skip, x, weight, (mean, rstd), 2, needs_weight or needs_bias)
    dweight = _sum_of_partials(partials[0], weight) if needs_weight else None
    dbias = _sum_of_partials(partials[1], weight) if needs_bias else None
    return dx, dweight, dbias


def residual_rms_norm_backward(
    dy: Array, skip: Array | None, saved: RmsNormSaved, needs_weight: bool = True
) -> tuple[Array, Array | None]:
    """Return the gradients of x, which are also those of the residual, and of the weight.

    skip: the gradient that reached x + residual past the norm; it is added to dx.
    """
    x, weight, rrms = saved
    dx, partials = _backward("rms_norm_backward", dy, skip, x, weight, (rrms,), 1, needs_weight)
    return dx, _sum_of_partials(partials[0], weight) if needs_weight else None


def _backward(
    name: str,
    dy: Array,
    skip: Array | None,
    x: Array,
    weight: Array,
    statistics: tuple[Array, ...],
    num_sums: int,
    needs_sums: bool,
) -> tuple[Array, Any]:
    """Return dx and the partial sums over rows of dy · x̂ and, for layer norm, of dy."""
    xp, C, rows = array_module(x), x.shape[-1], rows_of(x)
    dy, dx = xp.ascontiguousarray(dy), xp.empty(x.shape, x.dtype)
    name = name if dy.dtype == x.dtype else f"{name}_rounded"
    blocks = min(rows, MOST_PARTIALS)
    partials = xp.empty((num_sums, blocks, C), np.float32) if needs_sums else [NULL] * num_sums
    given = dy, _or_null(skip), x, weight
    vector = vector_for(C, *given, dx)
    kernel("norm", name, dy.dtype)(
        (blocks,),
        (threads_for_row(C, vector, x.dtype.itemsize),),
        (*given, *statistics, dx, *partials, np.int32(rows), np.int32(C), vector),
        shared_mem=2 * C * 4 if needs_sums else 0,
    )
    return dx, partials


def _sum_of_partials(partials: Array, like: Array) -> Array:
    blocks, C = partials.shape
    out = array_module(like).empty(C, like.dtype)
    kernel("norm", "sum_of_partials", like.dtype)(
        (-(-C // 32),), (32, 8), (partials, np.int32(blocks), np.int32(C), out)
    )
    return out


def _or_null(array: Array | None) -> Any:
    return NULL if array is None else array


# --- the kernels of the ops ------------------------------------------------------------------------------------------


def _rounds(x: Array) -> bool:
    return rounds_results() and x.dtype == np.float32


def _run_rounded(name: str, x: Array, parameters: tuple[Any, ...], num_statistics: int, eps: float) -> Any:
    """Return y in bfloat16, and the statistics of each row."""
    xp, C, rows = array_module(x), x.shape[-1], rows_of(x)
    y = xp.empty(x.shape, bfloat16())
    statistics = [xp.empty(x.shape[:-1], np.float32) for _ in range(num_statistics)]
    vector = vector_for(C, x, *parameters, y)
    kernel("norm", name, y.dtype)(
        (-(-rows // FORWARD_WARPS),),
        (32 * FORWARD_WARPS,),
        (x, *parameters, y, *statistics, np.int32(rows), np.int32(C), np.float32(eps), vector),
    )
    return y, statistics


def _forward_supports(x: Array, weight: Array, bias: Array | None = None, eps: float = 1e-5) -> bool:
    return is_ready(weight, bias) and x.dtype == weight.dtype and x.size > 0


@kernel_for(layer_norm_forward, supports=_forward_supports, device="cuda")
def layer_norm_forward_kernel(
    x: Array, weight: Array, bias: Array | None = None, eps: float = 1e-5
) -> tuple[Array, LayerNormSaved]:
    x = array_module(x).ascontiguousarray(x)
    if _rounds(x):
        parameters = weight, _or_null(bias)
        y, statistics = _run_rounded("layer_norm_forward_rounded", x, parameters, 2, eps)
        return y, LayerNormSaved(x, weight, statistics[0], statistics[1], bias is not None)
    return residual_layer_norm_forward(x, None, weight, bias, eps)


def _fits(dy: Array, x: Array, weight: Array) -> bool:
    """Return whether x and weight have one dtype, and dy has it too, or is bfloat16 where they are float32."""
    same = dy.dtype == x.dtype or (dy.dtype.name, x.dtype.name) == ("bfloat16", "float32")
    return is_ready(x, weight) and same


def _backward_supports(dy: Array, saved: LayerNormSaved, needs_weight: bool = True, needs_bias: bool = True) -> bool:
    x, weight, mean, rstd, _ = saved
    if not (_fits(dy, x, weight) and is_contiguous(np.float32, mean, rstd) and dy.size > 0):
        return False
    fits = of_one_shape(dy, x) and of_one_shape(dy[..., 0], mean, rstd) and weight.shape == x.shape[-1:]
    return fits and x.shape[-1] <= WIDEST


@kernel_for(layer_norm_backward, supports=_backward_supports, device="cuda")
def layer_norm_backward_kernel(
    dy: Array, saved: LayerNormSaved, needs_weight: bool = True, needs_bias: bool = True
) -> tuple[Array, Array | None, Array | None]:
    return residual_layer_norm_backward(dy, None, saved, needs_weight, needs_bias)


def _rms_forward_supports(x: Array, weight: Array, eps: float = 1e-6) -> bool:
    return is_ready(weight) and x.dtype == weight.dtype and x.size > 0


@kernel_for(rms_norm_forward, supports=_rms_forward_supports, device="cuda")
def rms_norm_forward_kernel(x: Array, weight: Array, eps: float = 1e-6) -> tuple[Array, RmsNormSaved]:
    x = array_module(x).ascontiguousarray(x)
    if _rounds(x):
        y, (rrms,) = _run_rounded("rms_norm_forward_rounded", x, (weight,), 1, eps)
        return y, RmsNormSaved(x, weight, rrms)
    return residual_rms_norm_forward(x, None, weight, eps)


def _rms_backward_supports(dy: Array, saved: RmsNormSaved, needs_weight: bool = True) -> bool:
    x, weight, rrms = saved
    if not (_fits(dy, x, weight) and is_contiguous(np.float32, rrms) and dy.size > 0):
        return False
    fits = of_one_shape(dy, x) and of_one_shape(dy[..., 0], rrms) and weight.shape == x.shape[-1:]
    return fits and x.shape[-1] <= WIDEST


@kernel_for(rms_norm_backward, supports=_rms_backward_supports, device="cuda")
def rms_norm_backward_kernel(dy: Array, saved: RmsNormSaved, needs_weight: bool = True) -> tuple[Array, Array | None]:
    return residual_rms_norm_backward(dy, None, saved, needs_weight)
