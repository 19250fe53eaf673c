"""Dropout: elements are silenced at random, and the same ones again in the backward pass."""

from typing import NamedTuple

from jaxtyping import Float

from ..arrays import Array, array_module
from ..dispatch import dispatched
from ..random import RandomKey, keep_mask
from ._checks import check_floats, check_probability

__all__ = ["DropoutSaved", "dropout", "dropout_backward", "dropout_forward"]


class DropoutSaved(NamedTuple):
    """probability: of dropping. draw: which random numbers decided; the mask is drawn again, not kept."""

    probability: float
    key: RandomKey


@dispatched
def dropout_forward(
    x: Float[Array, "*shape"], probability: float, key: RandomKey
) -> tuple[Float[Array, "*shape"], DropoutSaved]:
    """Drop each element with the given probability and scale up the rest, so that the expectation stays.

    y = keep · x / (1 − p), keep drawn by `random.keep_mask(key, p, x.shape)`
    dx = keep · dy / (1 − p)

    Shapes:
        x, y any shape, float. Four axes (B, H, T, S) are drawn head by head (see `random`).
    Saves:
        five numbers.
    Raises:
        RangeError: a probability outside [0, 1). DtypeError: x does not hold floats.
    Source:
        Srivastava et al. 2014, "Dropout"; scaled in training, as all libraries do, so that inference is the identity.
    """
    check_floats("dropout", x=x)
    check_probability("dropout", probability)
    return _keep_and_scale(x, probability, key), DropoutSaved(probability, key)


@dispatched
def dropout_backward(dy: Float[Array, "*shape"], saved: DropoutSaved) -> Float[Array, "*shape"]:
    """Gradient of `dropout_forward`: dx."""
    return _keep_and_scale(dy, saved.probability, saved.key)


def _keep_and_scale(x: Array, probability: float, key: RandomKey) -> Array:
    if probability == 0.0:
        return x
    keep = keep_mask(key, probability, x.shape, array_module(x))
    return x * keep * x.dtype.type(1.0 / (1.0 - probability))


def dropout(x: Float[Array, "*shape"], probability: float, key: RandomKey) -> Float[Array, "*shape"]:
    """`dropout_forward` for people who want no gradient."""
    return dropout_forward(x, probability, key)[0]
