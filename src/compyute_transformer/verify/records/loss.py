"""Record of loss: cross-entropy."""

import numpy as np

from ...ops.loss import IGNORE_INDEX, cross_entropy_backward, cross_entropy_forward
from ..record import ELEMENTARY, Arguments, Benchmark, Op, Oracle, Rng, Tensor, case
from ..torch.base import functional

__all__ = ["OPS", "cross_entropy_arguments"]


def cross_entropy_arguments(
    rng: Rng,
    rows: tuple[int, ...],
    V: int = 7,
    scale: float = 1.0,
    ignored: int = 0,
    ignore_index: int = IGNORE_INDEX,
    label_smoothing: float = 0.0,
) -> Arguments:
    """Draw logits of V classes, and targets of which the first `ignored` are ignored."""
    targets = np.asarray(rng.integers(0, V, rows))
    targets.reshape(-1)[:ignored] = ignore_index
    logits = rng.normal(size=(*rows, V)) * scale
    return {"logits": logits, "targets": targets, "ignore_index": ignore_index, "label_smoothing": label_smoothing}


def torch_cross_entropy(logits: Tensor, targets: Tensor, ignore_index: int, label_smoothing: float) -> Tensor:
    """Call torch.nn.functional.cross_entropy, on rows."""
    rows = logits.reshape(-1, logits.shape[-1])
    return functional().cross_entropy(
        rows, targets.reshape(-1), ignore_index=ignore_index, label_smoothing=label_smoothing
    )


OPS = (
    Op(
        "cross_entropy",
        cross_entropy_forward,
        cross_entropy_backward,
        ("logits",),
        (
            case("one_row", cross_entropy_arguments, rows=()),
            case("batch", cross_entropy_arguments, rows=(2, 3)),
            case("ignored", cross_entropy_arguments, rows=(2, 5), ignored=3),
            case("smoothed", cross_entropy_arguments, rows=(2, 5), label_smoothing=0.1),
            case(
                "ignored_class_smoothed",
                cross_entropy_arguments,
                rows=(9,),
                ignored=4,
                ignore_index=2,
                label_smoothing=0.3,
            ),
            case("large_logits", cross_entropy_arguments, rows=(2, 3), scale=30.0),
            case("large", cross_entropy_arguments, rows=(3, 43), V=131, ignored=5, label_smoothing=0.1),
        ),
        oracles=(Oracle("functional.cross_entropy", torch_cross_entropy),),
        # the sum of exponentials and the mean, forward and backward; then the sum over the rows
        roundings=lambda a: 2 * a["logits"].shape[-1] + a["targets"].size + 2 * ELEMENTARY + 12,
        defaults={"ignore_index": -100, "label_smoothing": 0.0},
        benchmark=Benchmark(lambda rng, s: cross_entropy_arguments(rng, (s.B, s.T), s.V), lambda s: f"({s.N}, {s.V})"),
    ),
)
