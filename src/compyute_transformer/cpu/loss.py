"""Loss on a CPU: each row of logits is read twice from cache, for its logsumexp, and once more for its gradient.

1. NumPy: five passes over (N, V), three temporaries of the size of the logits, which for a vocabulary of 50,257 are the
   largest arrays of all. 2. One sweep a row, nothing kept but the logsumexp; the gradient is one more sweep.
3. The gradient over the logits themselves, where the caller lets them go: no second array of their size.
"""

import numpy as np
from numba import prange

from ..arrays import Array
from ..dispatch import kernel_for
from ..ops.loss import IGNORE_INDEX, CrossEntropySaved, cross_entropy_backward, cross_entropy_forward
from ._buffers import empty
from ._kernel import compile_kernel, compile_parallel, is_ready, pool_for
from ._vector import exp, highest

__all__ = ["cross_entropy_backward_kernel", "cross_entropy_forward_kernel"]

ZERO, ONE = np.float32(0.0), np.float32(1.0)


@compile_parallel
def _forward(logits, targets, ignore_index, label_smoothing, nll, logsumexp):
    N, V = logits.shape
    for n in prange(N):
        row = logits[n]
        top = highest(row, row[0])
        total, sum_logits = ZERO, ZERO
        for v in range(row.size):
            total += exp(row[v] - top)
            sum_logits += row[v]
        logsumexp[n] = top + np.log(total)
        if targets[n] == ignore_index:
            nll[n] = ZERO
        else:
            smooth = label_smoothing * (sum_logits / np.float32(V)) if label_smoothing > ZERO else ZERO
            nll[n] = logsumexp[n] - (ONE - label_smoothing) * logits[n, targets[n]] - smooth


@compile_kernel
def _backward_row(row, target, logsumexp, label_smoothing, scale, drow):
    share = label_smoothing / np.float32(row.size)
    for v in range(row.size):
        drow[v] = (exp(row[v] - logsumexp) - share) * scale
    drow[target] -= (ONE - label_smoothing) * scale


@compile_kernel
def _backward_row_over(row, target, logsumexp, label_smoothing, scale):
    # not the above with one array twice: the compiler does not vectorize what may overlap
    share = label_smoothing / np.float32(row.size)
    for v in range(row.size):
        row[v] = (exp(row[v] - logsumexp) - share) * scale
    row[target] -= (ONE - label_smoothing) * scale


@compile_parallel
def _backward(logits, targets, logsumexp, ignore_index, label_smoothing, scale, dlogits):
    for n in prange(targets.size):
        if targets[n] == ignore_index:
            dlogits[n] = ZERO
        else:
            _backward_row(logits[n], targets[n], logsumexp[n], label_smoothing, scale, dlogits[n])


@compile_parallel
def _backward_over(logits, targets, logsumexp, ignore_index, label_smoothing, scale):
    for n in prange(targets.size):
        if targets[n] == ignore_index:
            logits[n] = ZERO
        else:
            _backward_row_over(logits[n], targets[n], logsumexp[n], label_smoothing, scale)


def _forward_supports(
    logits: Array, targets: Array, ignore_index: int = IGNORE_INDEX, label_smoothing: float = 0.0
) -> bool:
    return is_ready(logits) and logits.size > 0


@kernel_for(cross_entropy_forward, supports=_forward_supports)
def cross_entropy_forward_kernel(
    logits: Array, targets: Array, ignore_index: int = IGNORE_INDEX, label_smoothing: float = 0.0
) -> tuple[Array, CrossEntropySaved]:
    V = logits.shape[-1]
    nll, logsumexp = np.empty(targets.size, np.float32), np.empty(targets.shape, np.float32)
    flat = np.ascontiguousarray(targets, np.int64).reshape(-1)
    with pool_for(logits.size):
        _forward(logits.reshape(-1, V), flat, ignore_index, np.float32(label_smoothing), nll, logsumexp.reshape(-1))
    num_scored = int((flat != ignore_index).sum())
    loss = nll.sum() / np.float32(max(num_scored, 1))
    return loss, CrossEntropySaved(logits, targets, logsumexp, num_scored, ignore_index, label_smoothing)


def _backward_supports(dloss: Array | float, saved: CrossEntropySaved, overwrite: bool = False) -> bool:
    logits = saved.logits
    return is_ready(logits) and logits.size > 0 and (logits.flags.writeable or not overwrite)


@kernel_for(cross_entropy_backward, supports=_backward_supports)
def cross_entropy_backward_kernel(dloss: Array | float, saved: CrossEntropySaved, overwrite: bool = False) -> Array:
    logits, targets, logsumexp, num_scored, ignore_index, label_smoothing = saved
    V = logits.shape[-1]
    given = (
        logits.reshape(-1, V),
        np.ascontiguousarray(targets, np.int64).reshape(-1),
        logsumexp.reshape(-1),
        ignore_index,
        np.float32(label_smoothing),
        np.float32(dloss / max(num_scored, 1)),
    )
    with pool_for(logits.size):
        if overwrite:
            _backward_over(*given)
            return logits
        dlogits = empty(logits.shape)
        _backward(*given, dlogits.reshape(-1, V))
    return dlogits
