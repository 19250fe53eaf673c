"""Embedding: token ids become vectors, and the gradients of equal ids meet again in one row."""

from typing import NamedTuple

from jaxtyping import Float, Integer

from ..backend import Array, array_module, fast
from .door import check_floats, check_ids, check_shape

__all__ = ["EmbeddingSaved", "embedding", "embedding_backward", "embedding_forward"]


class EmbeddingSaved(NamedTuple):
    """ids: which row each position took. num_embeddings: V, the number of rows of the weight."""

    ids: Array
    num_embeddings: int


@fast
def embedding_forward(
    ids: Integer[Array, "*rows"], weight: Float[Array, "V C"]
) -> tuple[Float[Array, "*rows C"], EmbeddingSaved]:
    """Look up one row of the weight for each id.

    y[r] = weight[ids[r]]
    dweight[v] = Σ dy[r] over all r with ids[r] = v

    Shapes:
        ids (*rows) integers in [0, V); weight (V, C) float; y (*rows, C) like weight.
    Saves:
        ids, no copy.
    Raises:
        DtypeError: ids are not integers. RangeError: an id outside [0, V). ShapeError: weight is not a matrix.
    Source:
        Bengio et al. 2003, "A neural probabilistic language model"; torch.nn.functional.embedding.
    """
    check_floats("embedding", weight=weight)
    check_shape("embedding", "weight", weight, (None, None), "one row for each id")
    array_module(ids, weight)
    check_ids("embedding", "ids", ids, weight.shape[0])
    return weight[ids], EmbeddingSaved(ids, weight.shape[0])


@fast
def embedding_backward(dy: Float[Array, "*rows C"], saved: EmbeddingSaved) -> Float[Array, "V C"]:
    """Gradient of `embedding_forward`: dweight. Ids have no gradient."""
    ids, num_embeddings = saved
    C = dy.shape[-1]
    check_shape("embedding_backward", "dy", dy, (*ids.shape, C), "the shape of y")
    xp = array_module(dy)
    dweight = xp.zeros((num_embeddings, C), dtype=dy.dtype)
    xp.add.at(dweight, ids.reshape(-1), dy.reshape(-1, C))  # unlike dweight[ids] += dy, adds every repeated id
    return dweight


def embedding(ids: Integer[Array, "*rows"], weight: Float[Array, "V C"]) -> Float[Array, "*rows C"]:
    """`embedding_forward` for people who want no gradient."""
    return embedding_forward(ids, weight)[0]
