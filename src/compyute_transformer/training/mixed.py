"""Mixed: what a training step on a GPU does beside the model: weights rounded once, and a large head in pieces."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..arrays import Array
from ..dispatch import is_intercepted, kernels_of
from ..nn.linear import Linear
from ..nn.module import Module
from ..nn.parameter import is_trained
from ..ops._checks import check_ids
from ..ops.linear import linear_forward
from ..ops.loss import IGNORE_INDEX, cross_entropy_forward
from ..precision import precision

__all__ = ["gradient_in_pieces", "rounded_weights"]


def _has_kernels(model: Module) -> bool:
    on_gpu = model.device == "cuda" and next(model.parameters()).dtype == np.float32
    return on_gpu and all(op.runs("cuda") == "cuda" for op in (linear_forward, cross_entropy_forward))


@contextmanager
def rounded_weights(model: Module) -> Iterator[None]:
    """Let the products of a model read one copy of its weights in bfloat16, made here, within a `with` block.

    The weights must not change within the block. Where the model is not on a GPU, has other weights than float32, or
    products are not computed in bfloat16 by kernels, nothing is copied.
    """
    if precision() != "bfloat16" or not _has_kernels(model):
        yield
        return
    with kernels_of("cuda", "_rounded").rounded_weights(model.flat.data):
        yield


def gradient_in_pieces(
    model: Any, inputs: Sequence[Array], targets: Array, label_smoothing: float = 0.0, dloss: float = 1.0
) -> Array | None:
    """Return the loss of a batch as a number on the GPU, and add dloss times its gradient; None where it is not cut.

    It is cut where the logits are more than `gpu.head` computes at a time, and the last layer of the model is its
    `head`, a plain `Linear` that nobody observes. What the head would return is then never held whole. With None
    nothing is computed, and the caller computes all logits at once.
    """
    head = getattr(model, "head", None)
    if type(head) is not Linear or head._observers or is_intercepted() or not _has_kernels(model):
        return None
    kernels = kernels_of("cuda", "head")
    if targets.size <= kernels.rows_of_piece(len(head.weight.data)):
        return None
    passed: list[Array] = []
    generator = model.generator
    before = generator.offset
    with _passing(head, passed):
        x = model(*inputs)
        if len(passed) != 1 or x is not passed[0] or x.shape[:-1] != targets.shape:  # something follows the head
            model.clear_saved()
            generator.offset = before
            return None
        check_ids("cross_entropy", "targets", targets, len(head.weight.data), IGNORE_INDEX)
        parameters = head.weight.data, None if head.bias is None else head.bias.data
        needs = is_trained(head.weight), is_trained(head.bias)
        loss: Array
        loss, gradients = kernels.head_in_pieces(x, *parameters, targets, label_smoothing, dloss, needs)
        head.weight.accumulate(gradients.weight)
        if head.bias:
            head.bias.accumulate(gradients.bias)
        model.backward(gradients.x)
    return loss


@contextmanager
def _passing(head: Linear, passed: list[Array]) -> Iterator[None]:
    """Let a head return what it is given, in both directions, within a `with` block. passed: gathers its inputs."""

    def forward(x: Array) -> Array:
        passed.append(x)
        return x

    head.__dict__.update(forward=forward, backward=lambda dy: dy)
    try:
        yield
    finally:
        del head.__dict__["forward"], head.__dict__["backward"]
