"""Head on an NVIDIA GPU: the product with a large vocabulary, the loss and all gradients, for some rows at a time.

The logits of 65,536 tokens of GPT-2 are 13 GB in float32, and their gradient is as large. Here a piece of the rows is
multiplied, scored and its gradient multiplied back before the next piece takes its place:

    logits = x[part] weightᵀ + bias;   nll[part], dlogits = cross_entropy(logits, targets[part])
    dx[part] = dlogits weight;   dweight += dlogitsᵀ x[part];   dbias += Σ_rows dlogits

It is no op, but a part of a training step; nothing in it waits for the CPU.

Versions: 1. logits of a piece in float32, their gradient over them. Not yet timed on a GPU.
"""

from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array
from ..ops.loss import IGNORE_INDEX
from ._products import multiply, operands, vector_of
from .loss import count_scored, cross_entropy_in_place, mean_of_scored

__all__ = ["MOST_LOGITS", "HeadGradients", "head_in_pieces", "rows_of_piece"]

MOST_LOGITS = 1 << 28  # of a piece: 1 GiB in float32
MULTIPLE = 128  # of the rows of a piece, which products of tensor cores come in
SIDE_BY_SIDE = 8  # numbers of bfloat16 in 16 bytes, as which tensor cores read a row


class HeadGradients(NamedTuple):
    """Of the input, (*rows, C), and of the parameters, in their dtypes; None where none is needed."""

    x: Array
    weight: Array | None
    bias: Array | None


def rows_of_piece(vocab_size: int) -> int:
    """Return how many rows are computed at a time."""
    rows = max(1, MOST_LOGITS // vocab_size)
    return rows // MULTIPLE * MULTIPLE or rows


def head_in_pieces(
    x: Array,
    weight: Array,
    bias: Array | None,
    targets: Array,
    label_smoothing: float = 0.0,
    dloss: float = 1.0,
    needs: tuple[bool, bool] = (True, True),
    ignore_index: int = IGNORE_INDEX,
) -> tuple[Array, HeadGradients]:
    """Return the mean loss of the rows that are scored, and the gradients of dloss times the loss.

    x (*rows, C); weight (V, C); bias (V) or None; targets (*rows), all in [0, V) or ignored. needs: whether the
    gradients of weight and bias are computed.
    """
    cupy, (V, C) = import_module("cupy"), weight.shape
    rows, matrix = operands(x.reshape(-1, C), weight)
    flat, count, N, step = targets.reshape(-1), count_scored(targets), len(rows), min(len(rows), rows_of_piece(V))
    nll, logits, dx = cupy.empty(N, np.float32), cupy.empty((step, V), np.float32), cupy.empty((N, C), x.dtype)
    dweight = cupy.empty((V, C), weight.dtype) if needs[0] else None
    dbias = cupy.zeros(V, weight.dtype) if needs[1] and bias is not None else None
    epilogue: Any = "none" if bias is None else "bias"
    for start in range(0, N, step):
        part = slice(start, min(start + step, N))
        piece = logits[: part.stop - start]
        multiply(rows[part], matrix, piece, transposed=(False, True), epilogue=epilogue, vector=vector_of(bias, piece))
        nll[part] = cross_entropy_in_place(piece, flat[part], count, ignore_index, label_smoothing, dloss)
        dlogits = _as(rows.dtype, piece)
        multiply(dlogits, matrix, dx[part])
        if dweight is not None:
            multiply(dlogits, rows[part], dweight, transposed=(True, False), accumulate=start > 0)
        if dbias is not None:
            dbias += piece.sum(0)
    loss, _ = mean_of_scored(nll, flat, ignore_index)
    return loss, HeadGradients(dx.reshape(x.shape), dweight, dbias)


def _as(dtype: Any, array: Array) -> Array:
    """Return a matrix in the dtype of the operands, whose rows begin where tensor cores read them at full speed."""
    if array.dtype == dtype:
        return array
    rows, columns = array.shape
    made: Array = import_module("cupy").empty((rows, -(-columns // SIDE_BY_SIDE) * SIDE_BY_SIDE), dtype)[:, :columns]
    made[...] = array
    return made
