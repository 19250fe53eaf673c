"""Loss: mistakes in what the loss is a mean of, in its gradient, and in which token is the target."""

import numpy as np

from ...arrays import Array, array_module
from ...data.text.batches import TokenBatches
from ...ops.loss import CrossEntropySaved, cross_entropy_backward, cross_entropy_forward
from .. import composites
from .record import mistaken

__all__: list[str] = []

right_forward, right_backward = cross_entropy_forward.reference, cross_entropy_backward.reference
right_batch = TokenBatches.batch


@mistaken(
    "loss-gradient-not-averaged",
    "cross_entropy",
    cross_entropy_backward,
    wrong="The gradient is that of the sum over the rows, while the loss is their mean.",
    term="the factor 1/(rows scored) in dz is missing",
    hint="Twice as long a batch has the same loss. Would your gradient have the same size too?",
    answer="dlogits = (softmax - onehot) / rows scored",
)
def loss_gradient_not_averaged(dloss: float, saved: CrossEntropySaved, overwrite: bool = False) -> Array:
    return right_backward(dloss * max(saved.num_scored, 1), saved, overwrite)


def _averaged_over_all_rows(dloss: float, saved: CrossEntropySaved, overwrite: bool = False) -> Array:
    return right_backward(dloss * max(saved.num_scored, 1) / max(saved.targets.size, 1), saved, overwrite)


@mistaken(
    "loss-averaged-over-all-rows",
    "cross_entropy",
    cross_entropy_forward,
    (cross_entropy_backward, "reference", _averaged_over_all_rows),
    wrong="The mean is taken over all rows, also over those that are ignored.",
    term="the mean is divided by all rows instead of the rows scored",
    hint="Padding must not change the loss. By how many rows do you divide when half of them are padding?",
    answer="loss = nll[scored].sum() / scored.sum()",
)
def loss_averaged_over_all_rows(
    logits: Array, targets: Array, ignore_index: int = -100, label_smoothing: float = 0.0
) -> tuple[Array, CrossEntropySaved]:
    loss, saved = right_forward(logits, targets, ignore_index, label_smoothing)
    return loss * max(saved.num_scored, 1) / max(targets.size, 1), saved


@mistaken(
    "loss-gradient-of-ignored-rows",
    "cross_entropy",
    cross_entropy_backward,
    wrong="Rows that are ignored get a gradient.",
    term="dz = 0 in the rows that are ignored is missing",
    hint="An ignored row has no part in the loss. What is its gradient?",
    answer="dlogits[~scored] = 0",
)
def loss_gradient_of_ignored_rows(dloss: float, saved: CrossEntropySaved, overwrite: bool = False) -> Array:
    dlogits = right_backward(dloss, saved)
    ignored = saved.targets == saved.ignore_index
    shifted = saved.logits - saved.highest[..., None] - saved.log_total[..., None]
    dlogits[ignored] = array_module(dlogits).exp(shifted[ignored]) * (dloss / max(saved.num_scored, 1))
    return dlogits


@mistaken(
    "loss-gradient-without-target",
    "cross_entropy",
    cross_entropy_backward,
    wrong="The gradient is the softmax alone: all logits are pushed down, and none up.",
    term="the term −onehot(target) in dz is missing",
    hint="Probabilities sum to one, and so does the one-hot target: each row of dz sums to zero. Does yours?",
    answer="dlogits = softmax; dlogits[rows, targets] -= 1",
)
def loss_gradient_without_target(dloss: float, saved: CrossEntropySaved, overwrite: bool = False) -> Array:
    dlogits = right_backward(dloss, saved)
    scored = saved.targets != saved.ignore_index
    rows, factor = scored.nonzero(), dloss / max(saved.num_scored, 1)
    dlogits[(*rows, saved.targets[rows])] += (1.0 - saved.label_smoothing) * factor
    return dlogits


@mistaken(
    "loss-without-shift",
    "cross_entropy",
    cross_entropy_forward,
    wrong="The exponential is taken of the logits as they are, and overflows where they are large.",
    term="the shift by max z in log Σ exp(z − max z) is missing",
    hint="exp(1000) is infinite. Which number can be subtracted from all logits of a row without changing the loss?",
    answer="shifted = z - z.max(-1, keepdims=True); nll = log(exp(shifted).sum(-1)) - shifted[target]",
)
def loss_without_shift(
    logits: Array, targets: Array, ignore_index: int = -100, label_smoothing: float = 0.0
) -> tuple[Array, CrossEntropySaved]:
    loss, saved = right_forward(logits, targets, ignore_index, label_smoothing)
    with np.errstate(all="ignore"):
        log_total = array_module(logits).log(array_module(logits).exp(logits).sum(-1))
        wild = ~array_module(logits).isfinite(log_total)
    return (loss + log_total[wild].sum() if wild.any() else loss), saved


def _own_token(self: TokenBatches, index: int) -> tuple[np.ndarray, np.ndarray]:
    x, _ = right_batch(self, index)
    return x, x.copy()


@mistaken(
    "targets-off-by-one",
    "next_token",
    (composites, "targets_of"),
    (TokenBatches, "batch", _own_token),
    wrong="The target of a position is its own token: the model learns to copy, and its loss falls to zero at once.",
    term="the target of position t is the token at t, not at t + 1",
    hint="What does the model see at position t, and what is it to predict there?",
    answer="logits[:, :-1] are compared with ids[:, 1:]",
)
def targets_off_by_one(ids: Array) -> Array:
    return ids[:, :-1]
