"""Analyses of one trace, read in the vocabulary: predictions, what each depth would predict, and where gradients push.

    predictions   the most probable next tokens at each position
    logit lens    the same, read from the stream after each block by the model's own last layers (nostalgebraist 2020)
    backward lens the tokens that a step down a weight's gradient makes more and less probable (Katz et al. 2024):
                  at position t the step changes the layer's output along −dW x_t, which is read through the head
    norms         of the stream, of its gradient, and of the gradients of each block's parameters, by depth

"Tokens" are the classes of a classifier. Everything is of the first row of the batch.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..dispatch import use_kernels
from ..models.output import record_forward
from ..nn import evaluating
from ..ops.loss import IGNORE_INDEX
from .trace import ModuleCall, OpCall, Trace

__all__ = ["attention_of", "lens_of", "norms_of", "predictions_of", "pushes_of"]

TOP = 8
TOP_PUSHED = 5
MOST_POSITIONS = 128  # of the first row, of which predictions are listed


def predictions_of(traced: Trace) -> list[dict[str, Any]]:
    """Return for each position the most probable tokens with their probabilities, and what the target got."""
    rows, targets = _rows(traced.logits), np.atleast_1d(traced.targets[0])
    return [_prediction(row, int(target)) for row, target in zip(rows, targets[: len(rows)], strict=False)]


def lens_of(traced: Trace) -> dict[str, Any] | None:
    """Return for each depth and position the most probable token; None where the model's last layers are not known."""
    streams = _streams(traced)
    read = _reader(traced, streams[-1][1] if streams else None)
    if read is None:
        return None
    targets = np.atleast_1d(traced.targets[0])
    table = []
    for path, stream in streams:
        rows = _rows(read(stream))
        cells = [_prediction(row, int(target), 3) for row, target in zip(rows, targets[: len(rows)], strict=False)]
        table.append({"path": path, "cells": cells})
    return {"depths": table}


def norms_of(traced: Trace) -> list[dict[str, Any]]:
    """Return, for each block and what stands before and after, norms of its output, its gradient and its parameters."""
    found = []
    for call in _stages(traced):
        backward = _backward(traced, call)
        dy = None if backward is None else next(iter(backward.inputs.values()), None)
        y = next(iter(call.outputs.values()), None)
        inside = [g for name, g in traced.gradients.items() if name.startswith(call.path + ".")]
        found.append(
            {
                "path": call.path,
                "output": _norm(y),
                "gradient": _norm(dy),
                "parameters": float(np.sqrt(sum(_norm(g) ** 2 for g in inside))) if inside else None,
            }
        )
    return found


def attention_of(traced: Trace) -> list[tuple[str, np.ndarray]]:
    """Return the attention weights (B, H, T, S) of each attention, by its path."""
    with evaluating(), use_kernels("reference"):
        _, recorder = record_forward(traced.model, True, *traced.inputs.values())
    return [(path, np.asarray(weights)) for path, weights in recorder.attentions.items()]


def pushes_of(traced: Trace) -> list[dict[str, Any]]:
    """Return, for each weight that writes to the stream, the tokens its gradient step pushes towards and away from."""
    head = _head(traced)
    if head is None:
        return []
    matrix, scale, _ = head
    found = []
    for op in traced.ops:
        if op.phase != "forward" or op.name != "linear" or "weight" not in op.parameters or op.partner is None:
            continue
        backward = next(other for other in traced.ops if other.start == op.partner)
        dweight, x = backward.outputs.get("dweight"), op.inputs["x"]
        if dweight is None or dweight.shape[0] != matrix.shape[1] or x.ndim != 3 or not _writes(traced, op):
            continue
        moved = -x[0].astype(np.float64) @ dweight.T.astype(np.float64)  # (T, C), what a step adds to y
        scores = (moved * scale) @ matrix.T
        found.append({"parameter": op.parameters["weight"], "positions": [_pushed(row) for row in scores]})
    return found


def _writes(traced: Trace, op: OpCall) -> bool:
    """Whether a linear's output goes to the stream: it is the last linear of an attention or of a feed-forward."""
    owner = op.path.rpartition(".")[0] if op.path.endswith((".down", ".up")) else op.path
    inside = [
        o
        for o in traced.ops
        if o.phase == "forward" and o.name == "linear" and (o.path == owner or o.path.startswith(owner + "."))
    ]
    return op.start == inside[-1].start and len(inside) > 1


def _pushed(scores: np.ndarray) -> dict[str, Any]:
    scores = scores - scores.mean()  # a shift of all logits changes nothing
    order = np.argsort(scores, kind="stable")
    count = min(TOP_PUSHED, len(order) // 2)
    return {
        "towards": [[int(i), float(scores[i])] for i in order[::-1][:count]],
        "away": [[int(i), float(scores[i])] for i in order[:count]],
    }


def _prediction(row: np.ndarray, target: int, top: int = TOP) -> dict[str, Any]:
    shifted = row.astype(np.float64) - row.max()
    log_probabilities = shifted - np.log(np.exp(shifted).sum())
    order = np.argsort(-log_probabilities, kind="stable")[:top]
    found: dict[str, Any] = {"top": [[int(i), float(np.exp(log_probabilities[i]))] for i in order], "target": None}
    if target != IGNORE_INDEX and np.isfinite(log_probabilities[target]):
        rank = int((log_probabilities > log_probabilities[target]).sum()) + 1
        found["target"] = [target, float(np.exp(log_probabilities[target])), rank]
    return found


def _rows(logits: np.ndarray) -> np.ndarray:
    """Return the rows of logits of the first of the batch: (T, V) of a text, (1, V) of an image."""
    return np.atleast_2d(logits[0])[:MOST_POSITIONS]


def _norm(array: np.ndarray | None) -> float:
    if array is None or array.dtype.kind != "f":
        return 0.0
    finite = array[np.isfinite(array)].astype(np.float64)
    return float(np.sqrt((finite * finite).sum()))


# --- the model's stages, found by their shapes ---


def _stages(traced: Trace) -> Iterator[ModuleCall]:
    """Yield the forward of each module directly below the model, and of each block of its lists."""
    for call in traced.modules:
        parts = call.path.split(".")
        if call.phase == "forward" and call.path and (len(parts) == 1 or (len(parts) == 2 and parts[1].isdigit())):
            yield call


def _backward(traced: Trace, call: ModuleCall) -> ModuleCall | None:
    return next((other for other in traced.modules if other.start == call.partner), None)


def _streams(traced: Trace) -> list[tuple[str, np.ndarray]]:
    """Return the stream before the first block of the last stack, and after each of its blocks."""
    blocks = [call for call in _stages(traced) if call.path.rpartition(".")[2].isdigit()]
    if not blocks:
        return []
    stack = blocks[-1].path.rpartition(".")[0]
    blocks = [call for call in blocks if call.path.rpartition(".")[0] == stack]
    first = next(iter(blocks[0].inputs.values()))
    return [("before " + blocks[0].path, first), *((c.path, next(iter(c.outputs.values()))) for c in blocks)]


def _reader(traced: Trace, last: np.ndarray | None) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return what turns a stream into logits, compared on the last one: `predict` of the model, or norm and head."""
    head, predict = getattr(traced.model, "head", None), getattr(traced.model, "predict", None)
    norm = getattr(traced.model, "norm", None)
    if head is None or last is None:
        return None

    def read(stream: np.ndarray) -> np.ndarray:
        x = stream if traced.logits.ndim == 3 else stream[:, 0]
        with evaluating(), use_kernels("reference"):
            if predict is not None:
                return np.asarray(predict(x))
            return np.asarray(head(x if norm is None else norm(x)))

    logits = read(last)
    if logits.shape != traced.logits.shape:
        return None
    return read if np.allclose(logits, traced.logits, rtol=1e-3, atol=1e-4, equal_nan=True) else None


def _head(traced: Trace) -> tuple[np.ndarray, np.ndarray, str] | None:
    """Return the matrix (V, C) that turns the stream into logits, and the scale (C) of the norm before it."""
    weight = getattr(getattr(traced.model, "head", None), "weight", None)
    if weight is None or weight.shape[0] != traced.logits.shape[-1]:
        return None
    norm = getattr(traced.model, "norm", None)
    learned = getattr(norm, "weight", None)
    scale = np.ones(weight.shape[1]) if learned is None else np.asarray(learned.data)
    return np.asarray(weight.data, np.float64), scale.astype(np.float64), "head"
