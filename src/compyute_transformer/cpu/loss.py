"""Loss on a CPU: each row of logits is read twice from cache, for its logsumexp, and once more for its gradient.

Optimization history:

1. NumPy: five passes over (N, V), three temporaries of the size of the logits, which for a vocabulary of 50,257 are the
   largest arrays of all. 2. One sweep a row, nothing saved but its maximum and log-sum; the gradient is one more sweep.
3. The gradient over the logits themselves, where the caller lets them go: no second array of their size.
"""

import numpy as np
from numba import prange

from ..arrays import Array
from ..dispatch import kernel_for
from ..ops.loss import IGNORE_INDEX, CrossEntropySaved, cross_entropy_backward, cross_entropy_forward
from ._buffers import empty
from ._kernel import compile_parallel, in_one_piece, is_ready, of_one_shape, pool_for
from ._vector import difference, exp
from ._vector import highest as maximum

__all__ = ["cross_entropy_backward_kernel", "cross_entropy_forward_kernel"]

ZERO, ONE = np.float32(0.0), np.float32(1.0)
ROWS, COLUMNS = 8, 2048  # rows a task, columns at a time: 8 kB, in the first-level cache


@compile_parallel
def _forward(logits, targets, ignore_index, label_smoothing, nll, tops, log_totals):
    N, V = logits.shape
    for n in prange(N):
        row = logits[n]
        top = maximum(row, row[0])
        total, sum_shifted = ZERO, ZERO
        for v in range(row.size):
            shifted = difference(row[v], top)
            total += exp(shifted)
            sum_shifted += shifted
        log_total = np.log(total)
        tops[n], log_totals[n] = top, log_total
        if targets[n] == ignore_index:
            nll[n] = ZERO
        else:
            smooth = label_smoothing * (sum_shifted / np.float32(V)) if label_smoothing > ZERO else ZERO
            nll[n] = log_total - (ONE - label_smoothing) * difference(row[targets[n]], top) - smooth


@compile_parallel
def _backward(logits, targets, tops, log_totals, ignore_index, label_smoothing, scale, dlogits):
    """Write the gradient, which may be the logits themselves: a row is finished before it is written."""
    V = logits.shape[1]
    for task in prange((targets.size + ROWS - 1) // ROWS):
        part = np.empty(COLUMNS, np.float32)
        for n in range(task * ROWS, min(targets.size, (task + 1) * ROWS)):
            if targets[n] == ignore_index:
                dlogits[n] = ZERO
                continue
            smooth, top, inverse = label_smoothing / np.float32(V), tops[n], ONE / np.exp(log_totals[n])
            for start in range(0, V, COLUMNS):
                row, drow = logits[n, start : start + COLUMNS], dlogits[n, start : start + COLUMNS]
                for v in range(row.size):
                    part[v] = exp(difference(row[v], top)) * inverse - smooth
                if start <= targets[n] < start + row.size:
                    part[targets[n] - start] -= ONE - label_smoothing
                for v in range(row.size):
                    drow[v] = part[v] * scale


def _forward_supports(
    logits: Array, targets: Array, ignore_index: int = IGNORE_INDEX, label_smoothing: float = 0.0
) -> bool:
    return is_ready(logits) and logits.size > 0


@kernel_for(cross_entropy_forward, supports=_forward_supports)
def cross_entropy_forward_kernel(
    logits: Array, targets: Array, ignore_index: int = IGNORE_INDEX, label_smoothing: float = 0.0
) -> tuple[Array, CrossEntropySaved]:
    V = logits.shape[-1]
    nll = np.empty(targets.size, np.float32)
    highest, log_total = np.empty(targets.shape, np.float32), np.empty(targets.shape, np.float32)
    flat = in_one_piece(targets, np.int64).reshape(-1)
    given = logits.reshape(-1, V), flat, ignore_index, np.float32(label_smoothing)
    with pool_for(logits.size):
        _forward(*given, nll, highest.reshape(-1), log_total.reshape(-1))
    num_scored = int(np.count_nonzero(flat != ignore_index))
    loss = nll.sum() / np.float32(max(num_scored, 1))
    return loss, CrossEntropySaved(logits, targets, highest, log_total, num_scored, ignore_index, label_smoothing)


def _backward_supports(dloss: Array | float, saved: CrossEntropySaved, overwrite: bool = False) -> bool:
    logits = saved.logits
    if not (is_ready(logits, saved.highest, saved.log_total) and logits.size > 0):
        return False
    fits = of_one_shape(logits[..., 0], saved.targets, saved.highest, saved.log_total)
    return fits and (logits.flags.writeable or not overwrite)


@kernel_for(cross_entropy_backward, supports=_backward_supports)
def cross_entropy_backward_kernel(dloss: Array | float, saved: CrossEntropySaved, overwrite: bool = False) -> Array:
    logits, targets, highest, log_total, num_scored, ignore_index, label_smoothing = saved
    V, dlogits = logits.shape[-1], logits if overwrite else empty(logits.shape)
    with pool_for(logits.size):
        _backward(
            logits.reshape(-1, V),
            in_one_piece(targets, np.int64).reshape(-1),
            highest.reshape(-1),
            log_total.reshape(-1),
            ignore_index,
            np.float32(label_smoothing),
            np.float32(dloss / max(num_scored, 1)),
            dlogits.reshape(-1, V),
        )
    return dlogits
