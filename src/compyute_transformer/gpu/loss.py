"""Loss on a GPU: logits are read once for the loss, and once more from cache for the gradient; see `loss.cu`.

Optimization history:

1. CuPy: seven passes over (N, V), the largest arrays of all. 2. One kernel each way, highest logit and sum in one
reading. 3. `cross_entropy_in_place`: loss and gradient in one kernel, over the logits themselves, with nothing that
waits for the CPU. 4. The number of scored rows stays on the device between forward and backward. No time was measured
yet, since the first GPU is still to come.
"""

from typing import Any

import numpy as np

from ..arrays import Array, array_module, device_of
from ..dispatch import kernel_for
from ..ops.loss import IGNORE_INDEX, CrossEntropySaved, cross_entropy_backward, cross_entropy_forward
from ._kernel import NULL, is_contiguous, is_ready, kernel, of_one_shape, rows_of, threads_for_row, vector_for

__all__ = [
    "count_scored",
    "cross_entropy_backward_kernel",
    "cross_entropy_forward_kernel",
    "cross_entropy_in_place",
    "mean_of_scored",
]

MOST_THREADS = 512  # of a row of 50,257 logits in bfloat16, each thread reads twelve times 16 bytes


def count_scored(targets: Array, ignore_index: int = IGNORE_INDEX) -> Array:
    """Return how many targets are scored, as one int32 on their device."""
    count = array_module(targets).empty((), np.int32)
    _mean(NULL, _flat(targets), ignore_index, NULL, count)
    return count


def mean_of_scored(nll: Array, targets: Array, ignore_index: int = IGNORE_INDEX) -> tuple[Array, Array]:
    """Return the sum of the losses of all rows divided by the number of those that are scored, and this number."""
    xp = array_module(nll)
    loss, count = xp.empty((), np.float32), xp.empty((), np.int32)
    _mean(nll, _flat(targets), ignore_index, loss, count)
    return loss, count


def _mean(nll: Any, targets: Array, ignore_index: int, loss: Any, count: Array) -> None:
    launch = kernel("loss", "mean_of_scored", np.float32)
    launch((1,), (1024,), (nll, targets, np.int64(ignore_index), np.int32(targets.size), loss, count))


def cross_entropy_in_place(
    logits: Array,
    targets: Array,
    num_scored: Array,
    ignore_index: int = IGNORE_INDEX,
    label_smoothing: float = 0.0,
    dloss: float | Array = 1.0,
) -> Array:
    """Return the loss of each row, 0 where it is not scored, and write the gradient of their mean over the logits.

    num_scored: what `count_scored` returns, of all the rows that the mean is of: logits may be a part of them, so that
    a head of a large vocabulary need not be computed for all positions at once. dloss: a number, or a float32 on the
    device.

    Nothing waits for the CPU, so that a CUDA graph can hold it.
    """
    V, rows = logits.shape[-1], rows_of(logits)
    nll = array_module(logits).empty(targets.shape, np.float32)
    vector = vector_for(V, logits)
    factor, pointer = _factor_and_pointer(dloss)
    kernel("loss", "cross_entropy_in_place", logits.dtype)(
        (rows,),
        (threads_for_row(V, vector, logits.dtype.itemsize, MOST_THREADS),),
        (
            *(logits, _flat(targets), np.int64(ignore_index), np.float32(label_smoothing), factor, pointer),
            *(num_scored, nll, np.int32(V), vector),
        ),
    )
    return nll


def _flat(targets: Array) -> Array:
    return array_module(targets).ascontiguousarray(targets, np.int64).reshape(-1)


def _factor_and_pointer(dloss: Any, divisor: int = 1) -> tuple[np.float32, Any]:
    """Return what a kernel multiplies gradients by: a number, and the address of another that is on the device."""
    if device_of(dloss) == "cuda":
        return np.float32(1.0 / divisor), array_module(dloss).asarray(dloss, np.float32)
    return np.float32(float(dloss) / divisor), NULL


# --- the kernels of the op -------------------------------------------------------------------------------------------


def _forward_supports(
    logits: Array, targets: Array, ignore_index: int = IGNORE_INDEX, label_smoothing: float = 0.0
) -> bool:
    return is_ready(logits) and logits.size > 0


@kernel_for(cross_entropy_forward, supports=_forward_supports, device="cuda")
def cross_entropy_forward_kernel(
    logits: Array, targets: Array, ignore_index: int = IGNORE_INDEX, label_smoothing: float = 0.0
) -> tuple[Array, CrossEntropySaved]:
    """The loss is float32 for logits of bfloat16 too: rounded to eight bits it would not show what a step gains."""
    V, xp = logits.shape[-1], array_module(logits)
    nll, highest, log_total = (xp.empty(targets.shape, np.float32) for _ in range(3))
    flat, vector = _flat(targets), vector_for(V, logits)
    kernel("loss", "cross_entropy_forward", logits.dtype)(
        (rows_of(logits),),
        (threads_for_row(V, vector, logits.dtype.itemsize, MOST_THREADS),),
        (
            *(logits, flat, np.int64(ignore_index), np.float32(label_smoothing), nll, highest, log_total),
            *(np.int32(V), vector),
        ),
    )
    loss, count = mean_of_scored(nll, flat, ignore_index)
    saved = CrossEntropySaved(logits, targets, highest, log_total, count, ignore_index, label_smoothing)
    return loss, saved


def _backward_supports(dloss: Array | float, saved: CrossEntropySaved, overwrite: bool = False) -> bool:
    logits = saved.logits
    if not (is_ready(logits) and is_contiguous(np.float32, saved.highest, saved.log_total) and logits.size > 0):
        return False
    return of_one_shape(logits[..., 0], saved.targets, saved.highest, saved.log_total)


@kernel_for(cross_entropy_backward, supports=_backward_supports, device="cuda")
def cross_entropy_backward_kernel(dloss: Array | float, saved: CrossEntropySaved, overwrite: bool = False) -> Array:
    logits, targets, highest, log_total, num_scored, ignore_index, label_smoothing = saved
    V, xp = logits.shape[-1], array_module(logits)
    dlogits = logits if overwrite else xp.empty(logits.shape, logits.dtype)
    highest, log_total = xp.asarray(highest), xp.asarray(log_total)  # NumPy makes numbers of arrays without axes
    known = num_scored if isinstance(num_scored, int) else 1  # by the CPU, which it is after a reference's forward
    factor, pointer = _factor_and_pointer(dloss, max(known, 1))
    count = NULL if isinstance(num_scored, int) else num_scored
    vector = vector_for(V, logits, dlogits)
    kernel("loss", "cross_entropy_backward", logits.dtype)(
        (rows_of(logits),),
        (threads_for_row(V, vector, logits.dtype.itemsize, MOST_THREADS),),
        (
            *(logits, _flat(targets), highest, log_total, np.int64(ignore_index), np.float32(label_smoothing)),
            *(factor, pointer, count, dlogits, np.int32(V), vector),
        ),
    )
    return dlogits
