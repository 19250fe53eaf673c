"""Ids become vectors; the gradients of equal ids meet again."""

import numpy as np
import pytest

from compyute_transformer.errors import DtypeError, RangeError, ShapeError
from compyute_transformer.ops.embedding import embedding, embedding_backward, embedding_forward

WEIGHT = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def test_each_id_takes_its_row() -> None:
    y = embedding(np.array([[4, 0], [4, 2]]), WEIGHT)
    assert np.array_equal(y, np.stack([WEIGHT[[4, 0]], WEIGHT[[4, 2]]]))


def test_gradients_of_a_repeated_id_are_added() -> None:
    _, saved = embedding_forward(np.array([[4, 0, 4], [4, 2, 0]]), WEIGHT)
    dweight = embedding_backward(np.ones((2, 3, 3), np.float32), saved)
    assert np.array_equal(dweight[:, 0], [2, 0, 1, 0, 3])


def test_no_ids_give_no_vectors_and_no_gradient() -> None:
    y, saved = embedding_forward(np.zeros((0, 2), np.int64), WEIGHT)
    assert y.shape == (0, 2, 3)
    assert not embedding_backward(y, saved).any()


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.uint64])
def test_ids_of_any_integer_dtype_serve(dtype: type) -> None:
    assert np.array_equal(embedding(np.array([4, 1], dtype), WEIGHT), WEIGHT[[4, 1]])


@pytest.mark.usefixtures("door_only")
@pytest.mark.parametrize("token", [-1, 5], ids=["negative", "vocabulary"])
def test_token_ids_outside_the_vocabulary_are_refused(token: int) -> None:
    """−1 would count from the end in silence, and V would be a bare IndexError."""
    with pytest.raises(RangeError, match=rf"embedding: ids lie in \[0, 5\), got {token} at \(1,\)"):
        embedding(np.array([0, token]), WEIGHT)


@pytest.mark.usefixtures("door_only")
def test_ids_and_weights_of_the_wrong_kind_are_refused() -> None:
    with pytest.raises(DtypeError, match="embedding: ids are integers, got float64"):
        embedding(np.zeros(2), WEIGHT)
    with pytest.raises(DtypeError, match=r"embedding: .* got weight: int64"):
        embedding(np.zeros(2, np.int64), np.zeros((5, 3), np.int64))
    with pytest.raises(ShapeError, match=r"embedding: weight must have shape \(any, any\)"):
        embedding(np.zeros(2, np.int64), WEIGHT[0])
    _, saved = embedding_forward(np.zeros(2, np.int64), WEIGHT)
    with pytest.raises(ShapeError, match=r"embedding_backward: dy must have shape \(2, 3\)"):
        embedding_backward(np.zeros((4, 3), np.float32), saved)
