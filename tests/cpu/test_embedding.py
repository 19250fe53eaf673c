"""The gradient of an embedding: summed in a thread's own memory where it is small, in place where it is large."""

import numpy as np
import pytest

from compyute_transformer.cpu import embedding as kernel
from compyute_transformer.dispatch import use_kernels
from compyute_transformer.ops.embedding import embedding_backward, embedding_forward
from compyute_transformer.verify.result import relative_error
from compyute_transformer.verify.tolerances import limit

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("vocabulary", "in_cache"), [(65, True), (1000, False)])
def test_both_ways_add_what_the_reference_adds(vocabulary: int, in_cache: bool) -> None:
    weight = RNG.standard_normal((vocabulary, 301), dtype=np.float32)
    assert (weight.nbytes <= kernel.IN_CACHE) is in_cache
    ids = RNG.integers(0, vocabulary, (40, 43))  # so many that all threads take part
    ids[0, :9] = 5  # one id, nine times
    y, saved = embedding_forward(ids, weight)
    dy = RNG.standard_normal(y.shape, dtype=np.float32)
    with use_kernels("reference"):
        expected = embedding_backward(dy, saved)
    with use_kernels("cpu"):
        error = float(relative_error(embedding_backward(dy, saved), expected))
    assert not error > limit("kernel", np.float32)
