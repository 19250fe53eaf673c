"""Mixed: what a training step on a GPU does where products are computed in bfloat16; nothing elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ..dispatch import kernels_of
from ..nn.module import Module
from ..ops.linear import linear_forward
from ..precision import precision

__all__ = ["rounded_weights"]


@contextmanager
def rounded_weights(model: Module) -> Iterator[None]:
    """Let the products of a model read one copy of its weights in bfloat16, made here, within a `with` block.

    The weights must not change within the block. Where the model is not on a GPU, has other weights than float32, or
    products are not computed in bfloat16 by kernels, nothing is copied.
    """
    mixed = precision() == "bfloat16" and model.device == "cuda" and linear_forward.runs("cuda") == "cuda"
    if not mixed or model.flat.data.dtype != np.float32:
        yield
        return
    with kernels_of("cuda", "_rounded").rounded_weights(model.flat.data):
        yield
