"""Embedding on a GPU: the gradients of equal ids are added without atomics, in a fixed order; see `embedding.cu`.

Optimization history:

1. CuPy: add.at, by atomics, whose sums differ from run to run. 2. Each block looks for its own ids among all. No time
was measured yet, since the first GPU is still to come.
"""

import numpy as np

from ..arrays import Array, array_module
from ..dispatch import kernel_for
from ..ops.embedding import EmbeddingSaved, embedding_backward
from ._kernel import is_ready, kernel, of_one_shape

__all__ = ["embedding_backward_kernel"]

THREADS = 128  # as in `embedding.cu`
MOST_IDS = 32  # a block, whose sums are 16 kB
GROUPS = 1024  # of ids, at least, so that all multiprocessors have several


def _supports(dy: Array, saved: EmbeddingSaved) -> bool:
    return is_ready(dy) and dy.size > 0 and of_one_shape(dy[..., 0], saved.ids) and saved.num_embeddings > 0


@kernel_for(embedding_backward, supports=_supports, device="cuda")
def embedding_backward_kernel(dy: Array, saved: EmbeddingSaved) -> Array:
    ids, V = saved
    xp, C = array_module(dy), dy.shape[-1]
    flat = xp.ascontiguousarray(ids, np.int64).reshape(-1)
    dweight: Array = xp.empty((V, C), dy.dtype)
    per_block = max(1, min(MOST_IDS, V // GROUPS))
    kernel("embedding", "embedding_backward", dy.dtype)(
        (-(-V // per_block), -(-C // THREADS)),
        (THREADS,),
        (flat, dy, dweight, np.int32(flat.size), np.int32(V), np.int32(C), np.int32(per_block)),
        shared_mem=per_block * THREADS * 4,
    )
    return dweight
