"""Dropout: mistakes in what is scaled and in what is dropped again."""

from ...arrays import Array
from ...ops.dropout import DropoutSaved, dropout_backward, dropout_forward
from ...random import RandomKey
from .record import mistaken

__all__: list[str] = []

right_forward, right_backward = dropout_forward.reference, dropout_backward.reference


@mistaken(
    "dropout-scaled-twice",
    "dropout",
    dropout_forward,
    wrong="What is kept is divided by 1 − p twice.",
    term="1/(1 − p) is squared",
    hint="The expectation of y must be x: an element is kept with probability 1 − p, so it is scaled up once.",
    answer="y = keep * x / (1 - p)",
)
def dropout_scaled_twice(x: Array, probability: float, key: RandomKey) -> tuple[Array, DropoutSaved]:
    y, saved = right_forward(x, probability, key)
    return y / (1.0 - probability), saved


@mistaken(
    "dropout-not-scaled",
    "dropout",
    dropout_forward,
    wrong="What is kept is not scaled up.",
    term="the factor 1/(1 − p) is missing",
    hint="In evaluation nothing is dropped. Would the next layer see numbers of the same size as in training?",
    answer="y = keep * x / (1 - p)",
)
def dropout_not_scaled(x: Array, probability: float, key: RandomKey) -> tuple[Array, DropoutSaved]:
    y, saved = right_forward(x, probability, key)
    return y * (1.0 - probability), saved


@mistaken(
    "dropout-gradient-of-dropped",
    "dropout",
    dropout_backward,
    wrong="The backward gives a gradient to the elements that were dropped.",
    term="keep in dx = keep · dy/(1 − p) is missing",
    hint="An element that was set to zero had no part in y. What is its gradient?",
    answer="dx = keep * dy / (1 - p), with the keep of the forward",
)
def dropout_gradient_of_dropped(dy: Array, saved: DropoutSaved) -> Array:
    return dy / (1.0 - saved.probability)
