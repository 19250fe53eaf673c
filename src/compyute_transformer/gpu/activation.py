"""Activation on a GPU: one sweep each way, and softmax with two readings of a row; see `activation.cu`.

Optimization history:

1. CuPy: GELU is nine kernels forward, twelve backward. 2. One kernel each way, 16 bytes a load; a gated activation and
its gate are one kernel. 3. ReLU and where it was positive, in one kernel. No time was measured yet, since the first GPU
is still to come.
"""

from typing import Any

import numpy as np

from ..arrays import Array, array_module
from ..dispatch import kernel_for
from ..ops.activation import (
    Approximation,
    Gate,
    GatedActivationSaved,
    GeluSaved,
    ReluSaved,
    SiluSaved,
    SoftmaxSaved,
    gated_activation_backward,
    gated_activation_forward,
    gelu_backward,
    gelu_forward,
    relu_backward,
    relu_forward,
    silu_backward,
    silu_forward,
    softmax_backward,
    softmax_forward,
)
from ._kernel import (
    NULL,
    THREADS,
    VECTOR_BYTES,
    blocks_for,
    is_contiguous,
    is_ready,
    kernel,
    of_one_shape,
    rows_of,
    threads_for_row,
    vector_for,
)

__all__ = [
    "gated_activation_backward_kernel",
    "gated_activation_forward_kernel",
    "gelu_backward_kernel",
    "gelu_forward_kernel",
    "relu_backward_kernel",
    "relu_forward_kernel",
    "silu_backward_kernel",
    "silu_forward_kernel",
    "softmax_backward_kernel",
    "softmax_forward_kernel",
]

KINDS = {"silu": np.int32(0), "gelu": np.int32(1), "gelu_tanh": np.int32(2)}


def _run(name: str, kind: str | None, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
    """Run a kernel that computes each element on its own, several of them a thread."""
    arrays = [array for array in (*inputs, *outputs) if array is not NULL]
    one = arrays[0]
    vector = vector_for(VECTOR_BYTES, *arrays)  # any length: what is left over is loaded one by one
    per_thread = VECTOR_BYTES // one.dtype.itemsize if vector else 1
    options = () if kind is None else (KINDS[kind],)
    kernel("activation", name, one.dtype)(
        blocks_for(-(-one.size // per_thread)),
        (THREADS,),
        (*inputs, *outputs, np.int64(one.size), *options, vector),
    )


def _forward(kind: str, x: Array, up: Any = NULL) -> Array:
    y: Array = array_module(x).empty(x.shape, x.dtype)
    _run("activation_forward", kind, (x, up), (y,))
    return y


def _backward(kind: str, dy: Array, x: Array, up: Any = NULL) -> tuple[Array, Any]:
    xp = array_module(x)
    dx, dup = xp.empty(x.shape, x.dtype), NULL if up is NULL else xp.empty(x.shape, x.dtype)
    _run("activation_backward", kind, (dy, x, up), (dx, dup))
    return dx, dup


def _kind_of(approximate: str) -> str:
    return "gelu_tanh" if approximate == "tanh" else "gelu"


def _forward_supports(x: Array, approximate: Approximation = "none") -> bool:
    return is_ready(x) and x.size > 0


def _backward_supports(dy: Array, saved: Any) -> bool:
    return is_ready(dy, saved.x) and of_one_shape(dy, saved.x) and dy.size > 0


@kernel_for(gelu_forward, supports=_forward_supports, device="cuda")
def gelu_forward_kernel(x: Array, approximate: Approximation = "none") -> tuple[Array, GeluSaved]:
    return _forward(_kind_of(approximate), x), GeluSaved(x, approximate)


@kernel_for(gelu_backward, supports=_backward_supports, device="cuda")
def gelu_backward_kernel(dy: Array, saved: GeluSaved) -> Array:
    return _backward(_kind_of(saved.approximate), dy, saved.x)[0]


@kernel_for(relu_forward, supports=_forward_supports, device="cuda")
def relu_forward_kernel(x: Array) -> tuple[Array, ReluSaved]:
    xp = array_module(x)
    y, positive = xp.empty(x.shape, x.dtype), xp.empty(x.shape, np.bool_)
    _run("relu_forward", None, (x,), (y, positive))
    return y, ReluSaved(positive)


def _relu_backward_supports(dy: Array, saved: ReluSaved) -> bool:
    positive = saved.positive
    return is_ready(dy) and is_contiguous(np.bool_, positive) and of_one_shape(dy, positive) and dy.size > 0


@kernel_for(relu_backward, supports=_relu_backward_supports, device="cuda")
def relu_backward_kernel(dy: Array, saved: ReluSaved) -> Array:
    dx: Array = array_module(dy).empty(dy.shape, dy.dtype)
    _run("relu_backward", None, (dy, saved.positive), (dx,))
    return dx


@kernel_for(silu_forward, supports=_forward_supports, device="cuda")
def silu_forward_kernel(x: Array) -> tuple[Array, SiluSaved]:
    return _forward("silu", x), SiluSaved(x)


@kernel_for(silu_backward, supports=_backward_supports, device="cuda")
def silu_backward_kernel(dy: Array, saved: SiluSaved) -> Array:
    return _backward("silu", dy, saved.x)[0]


def _gated_forward_supports(gate: Array, up: Array, activation: Gate = "silu") -> bool:
    return is_ready(gate, up) and gate.size > 0


@kernel_for(gated_activation_forward, supports=_gated_forward_supports, device="cuda")
def gated_activation_forward_kernel(
    gate: Array, up: Array, activation: Gate = "silu"
) -> tuple[Array, GatedActivationSaved]:
    return _forward(activation, gate, up), GatedActivationSaved(gate, up, activation)


def _gated_backward_supports(dy: Array, saved: GatedActivationSaved) -> bool:
    return is_ready(dy, saved.gate, saved.up) and of_one_shape(dy, saved.gate, saved.up) and dy.size > 0


@kernel_for(gated_activation_backward, supports=_gated_backward_supports, device="cuda")
def gated_activation_backward_kernel(dy: Array, saved: GatedActivationSaved) -> tuple[Array, Array]:
    return _backward(saved.activation, dy, saved.gate, saved.up)


# --- softmax ---------------------------------------------------------------------------------------------------------


def _run_rows(name: str, *arrays: Array) -> None:
    one = arrays[0]
    C = one.shape[-1]
    vector = vector_for(C, *arrays)
    threads = threads_for_row(C, vector, one.dtype.itemsize)
    kernel("activation", name, one.dtype)((rows_of(one),), (threads,), (*arrays, np.int32(C), vector))


def _softmax_supports(x: Array) -> bool:
    return is_ready(x) and x.ndim > 0 and x.size > 0


@kernel_for(softmax_forward, supports=_softmax_supports, device="cuda")
def softmax_forward_kernel(x: Array) -> tuple[Array, SoftmaxSaved]:
    y = array_module(x).empty(x.shape, x.dtype)
    _run_rows("softmax_forward", x, y)
    return y, SoftmaxSaved(y)


def _softmax_backward_supports(dy: Array, saved: SoftmaxSaved) -> bool:
    return is_ready(dy, saved.y) and of_one_shape(dy, saved.y) and dy.size > 0


@kernel_for(softmax_backward, supports=_softmax_backward_supports, device="cuda")
def softmax_backward_kernel(dy: Array, saved: SoftmaxSaved) -> Array:
    dx: Array = array_module(dy).empty(dy.shape, dy.dtype)
    _run_rows("softmax_backward", dy, saved.y, dx)
    return dx
