"""Loss: the mean negative log-likelihood of the targets, and the gradient that every backward pass starts from."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from ..arrays import Array, array_module
from ..dispatch import dispatched, output_of
from ..errors import DtypeError
from ._checks import (
    check_array,
    check_bool,
    check_floats,
    check_ids,
    check_integer,
    check_last_axis,
    check_number,
    check_saved,
    check_shape,
    is_array,
    shown,
)

__all__ = [
    "IGNORE_INDEX",
    "CrossEntropySaved",
    "cross_entropy",
    "cross_entropy_backward",
    "cross_entropy_forward",
]

IGNORE_INDEX = -100  # torch's: a target that is not scored


class CrossEntropySaved(NamedTuple):
    """logits, targets: the inputs. highest, log_total: see the op. num_scored: rows scored. The options as given."""

    logits: Array
    targets: Array
    highest: Array
    log_total: Array
    num_scored: int | Array  # on a GPU an integer there, which the CPU does not wait for
    ignore_index: int
    label_smoothing: float


def check_cross_entropy(
    logits: Any, targets: Any, ignore_index: Any = IGNORE_INDEX, label_smoothing: Any = 0.0
) -> None:
    op = "cross_entropy"
    check_floats(op, logits=logits)
    check_array(op, "targets", targets)
    array_module(logits, targets)
    check_last_axis(op, "logits", logits)
    check_shape(op, "targets", targets, logits.shape[:-1], "one target a row of logits")
    check_integer(op, "ignore_index", ignore_index, -(1 << 63), 1 << 63)
    check_ids(op, "targets", targets, logits.shape[-1], ignore_index)
    check_number(op, "label_smoothing", label_smoothing, 0.0, 1.0)


@dispatched(validate=check_cross_entropy, overwritten=True)
def cross_entropy_forward(
    logits: Float[Array, "*rows V"],
    targets: Integer[Array, "*rows"],
    ignore_index: int = IGNORE_INDEX,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, ""], CrossEntropySaved]:
    """Mean nll, in nats, at the targets, over the rows that are scored.

    L = mean_r [ ℓ_r − (1 − ε) ž_r[target_r] − ε mean_v ž_r[v] ], ž_r = z_r − max z_r, ℓ_r = log Σ_v exp(ž_r[v])
    dz_r = dL/rows scored · (exp(ž_r − ℓ_r) − (1 − ε) onehot(target_r) − ε/V); zero in rows that are ignored

    Shapes:
        logits (*rows, V) float; targets (*rows) integers in [0, V) or ignore_index; L a scalar like logits.
        With no row to score, L is 0 and so are the gradients.
    Saves:
        logits, no copy; max z_r and ℓ_r, two floats a row. The softmax is rebuilt. Their sum, the logsumexp, would lose
        ℓ_r where all logits of a row are large.
    Raises:
        ShapeError: no classes; targets have not the shape of the rows. RangeError: a target outside [0, V), or ε
        outside [0, 1). DtypeError: targets are not integers.
    Source:
        torch.nn.functional.cross_entropy, whose argument names these are; Szegedy et al. 2016 for label smoothing ε.
        Nothing is added inside the logarithm: a loss of 100 is reported as 100.
    """
    xp = array_module(logits)
    highest = logits.max(-1, keepdims=True)
    shifted = logits - highest
    log_total = xp.log(xp.exp(shifted).sum(-1))
    scored = targets != ignore_index
    num_scored = int(scored.sum())
    at_target = xp.take_along_axis(shifted, xp.where(scored, targets, 0)[..., None], -1)[..., 0]
    nll = log_total - (1.0 - label_smoothing) * at_target
    if label_smoothing:
        nll -= label_smoothing * shifted.mean(-1)
    loss = xp.where(scored, nll, logits.dtype.type(0)).sum() / logits.dtype.type(max(num_scored, 1))
    return loss, CrossEntropySaved(
        logits, targets, highest[..., 0], log_total, num_scored, ignore_index, label_smoothing
    )


def check_cross_entropy_backward(dloss: Any, saved: Any, overwrite: Any = False) -> None:
    op = "cross_entropy_backward"
    check_saved(op, saved, CrossEntropySaved)
    check_scalar(op, "dloss", dloss)
    check_bool(op, "overwrite", overwrite)
    # again: targets may have been written over since the forward, and a kernel indexes by them
    check_ids(op, "targets", saved.targets, saved.logits.shape[-1], saved.ignore_index)


def check_scalar(op: str, name: str, value: object) -> None:
    """Raise a DtypeError unless the value is one real number, as a number or as an array without axes."""
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number and not (is_array(value) and value.ndim == 0 and value.dtype.kind in "iuf"):
        raise DtypeError(f"{op}: {name} is one number, the gradient of a scalar, got {shown(value)}.")


@dispatched(validate=check_cross_entropy_backward)
def cross_entropy_backward(
    dloss: Float[Array, ""] | float, saved: CrossEntropySaved, overwrite: bool = False
) -> Float[Array, "*rows V"]:
    """Return the gradient of `cross_entropy_forward`: dlogits, for the gradient dloss of the scalar.

    dlogits = dloss / n · (softmax(logits) − target distribution) in the n rows that are scored, 0 in the others

    With `overwrite` it is written over the logits, which nobody needs by then and of which a large vocabulary makes
    the largest array there is: 206 MB for 1,024 tokens of GPT-2. `saved` has served then.
    """
    logits, targets, highest, log_total, num_scored, ignore_index, label_smoothing = saved
    xp = array_module(logits)
    V = logits.shape[-1]
    rows, targets = logits.reshape(-1, V), targets.reshape(-1)
    scored = targets != ignore_index
    drows = rows if overwrite else rows.copy()
    drows -= highest.reshape(-1, 1)
    drows -= log_total.reshape(-1, 1)
    xp.exp(drows, out=drows)
    if label_smoothing:
        drows -= label_smoothing / V
    drows[xp.arange(len(rows)), xp.where(scored, targets, 0)] -= 1.0 - label_smoothing
    drows *= logits.dtype.type(float(dloss) / max(int(num_scored), 1))
    drows[~scored] = 0  # not a product with zero: an ignored row may hold NaN
    return drows.reshape(logits.shape)


cross_entropy = output_of("cross_entropy", cross_entropy_forward)
