"""Embedding and position: mistakes in where rows are read, and in what happens to rows that are read twice."""

from typing import Any

from ...arrays import Array, array_module
from ...ops.embedding import EmbeddingSaved, embedding_backward
from ...ops.position import (
    LearnedPositionSaved,
    SinusoidalPositionSaved,
    learned_position_backward,
    learned_position_forward,
    sinusoidal_position_forward,
)
from .record import mistaken

__all__: list[str] = []

right_position_forward, right_position_backward = (
    learned_position_forward.reference,
    learned_position_backward.reference,
)
right_sinusoidal_forward = sinusoidal_position_forward.reference


@mistaken(
    "embedding-gradient-overwritten",
    "embedding",
    embedding_backward,
    wrong="dweight[ids] = dy keeps the gradient of the last position of each id only; so does dweight[ids] += dy.",
    term="the sum over all positions r with ids[r] = v in dweight[v] is missing",
    hint="A token that occurs twice was read twice. NumPy's dweight[ids] += dy adds once for each different id.",
    answer="np.add.at(dweight, ids.reshape(-1), dy.reshape(-1, C))",
)
def embedding_gradient_overwritten(dy: Array, saved: EmbeddingSaved) -> Array:
    C = dy.shape[-1]
    dweight: Array = array_module(dy).zeros((saved.num_embeddings, C), dtype=dy.dtype)
    dweight[saved.ids.reshape(-1)] = dy.reshape(-1, C)
    return dweight


@mistaken(
    "position-not-offset",
    "learned_position",
    learned_position_forward,
    wrong="Positions are counted from 0 again behind a cache: every new token gets the first position.",
    term="start in weight[start + t] is missing",
    hint="With a cache the model is given one token at a time. At which position of the text does it stand?",
    answer="y = x + weight[start : start + T]",
)
def position_not_offset(x: Array, weight: Array, start: int = 0) -> tuple[Array, LearnedPositionSaved]:
    return x + weight[: x.shape[1]], LearnedPositionSaved(start, weight.shape[0], x.shape)


@mistaken(
    "sinusoids-not-offset",
    "sinusoidal_position",
    sinusoidal_position_forward,
    wrong="Positions are counted from 0 again behind a cache: every new token gets the first position.",
    term="start in sinusoids[start + t] is missing",
    hint="With a cache the model is given one token at a time. At which position of the text does it stand?",
    answer="y = x + sinusoids[start : start + T]",
)
def sinusoids_not_offset(x: Array, start: int = 0) -> tuple[Array, SinusoidalPositionSaved]:
    return right_sinusoidal_forward(x, 0)


@mistaken(
    "sinusoids-of-each-dimension",
    "sinusoidal_position",
    sinusoidal_position_forward,
    wrong="Each dimension has a frequency of its own, so that the sine and the cosine of a pair do not turn together.",
    term="2i/C in 10000^(−2i/C), the same for both dimensions of a pair, is the number of the dimension over C",
    hint="A shift of the position must be a rotation of each pair (sine, cosine). Both need the same frequency.",
    answer="frequencies = 10000.0 ** (-np.arange(0, C, 2) / C), for the sine at 2i and for the cosine at 2i + 1",
)
def sinusoids_of_each_dimension(x: Array, start: int = 0) -> tuple[Array, SinusoidalPositionSaved]:
    xp: Any = array_module(x)
    _, T, C = x.shape
    angles = xp.arange(start, start + T)[:, None] * 10000.0 ** (-xp.arange(C) / C)
    table = xp.where(xp.arange(C) % 2 == 0, xp.sin(angles), xp.cos(angles)).astype(x.dtype)
    return x + table, SinusoidalPositionSaved(x.shape)


@mistaken(
    "position-gradient-without-batch-sum",
    "learned_position",
    learned_position_backward,
    wrong="The gradient of the positions is that of the last element of the batch.",
    term="the sum over the batch in dweight[start + t] = Σ_b dy[b, t] is missing",
    hint="All elements of the batch added the same row. What follows for the gradient of something used many times?",
    answer="dweight[start : start + T] = dy.sum(0)",
)
def position_gradient_without_batch_sum(dy: Array, saved: LearnedPositionSaved) -> tuple[Array, Array]:
    dx, dweight = right_position_backward(dy, saved)
    assert dweight is not None  # it is needed
    dweight[saved.start : saved.start + dy.shape[1]] = dy[-1]
    return dx, dweight
