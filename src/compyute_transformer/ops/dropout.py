"""Dropout: elements are set to zero at random, and their gradients with them."""

from typing import Any, NamedTuple

from jaxtyping import Float

from ..arrays import Array, array_module
from ..dispatch import dispatched, output_of
from ..random import RandomKey, keep_mask
from ._checks import check_floats, check_gradient, check_key, check_probability, check_saved

__all__ = ["DropoutSaved", "dropout", "dropout_backward", "dropout_forward"]


class DropoutSaved(NamedTuple):
    """probability: of dropping. key: says which elements. shape: of x. The mask is drawn again in the backward."""

    probability: float
    key: RandomKey
    shape: tuple[int, ...]


def check_dropout(x: Any, probability: Any, key: RandomKey) -> None:
    check_floats("dropout", x=x)
    check_probability("dropout", probability)
    check_key("dropout", key)


@dispatched(validate=check_dropout)
def dropout_forward(
    x: Float[Array, "*shape"], probability: float, key: RandomKey
) -> tuple[Float[Array, "*shape"], DropoutSaved]:
    """Drop each element with the given probability and scale up the rest, so that the expectation stays.

    y = keep · x / (1 − p), keep = `random.keep_mask(key, p, x.shape)`
    dx = keep · dy / (1 − p)

    Shapes:
        x, y any shape, float. The mask of four axes (B, H, T, S) is drawn head by head (see `random`).
    Saves:
        five numbers.
    Raises:
        RangeError: a probability outside [0, 1). DtypeError: x does not hold floats.
    Source:
        Srivastava et al. 2014, "Dropout"; scaled in training, as all libraries do, so that inference is the identity.
    """
    return _keep_and_scale(x, probability, key), DropoutSaved(probability, key, x.shape)


def check_dropout_backward(dy: Any, saved: Any) -> None:
    check_saved("dropout_backward", saved, DropoutSaved)
    check_gradient("dropout_backward", dy, None, saved.shape)


@dispatched(validate=check_dropout_backward)
def dropout_backward(dy: Float[Array, "*shape"], saved: DropoutSaved) -> Float[Array, "*shape"]:
    """Return the gradient of `dropout_forward`: dx.

    dx = dy / (1 − p) where x was kept, else 0

    Shapes:
        dy, dx as x, of any shape.
    Raises:
        ShapeError: dy has not the shape of x. InputError: saved is of another op.
    """
    return _keep_and_scale(dy, saved.probability, saved.key)


def _keep_and_scale(x: Array, probability: float, key: RandomKey) -> Array:
    if probability == 0.0:
        return x
    keep = keep_mask(key, probability, x.shape, array_module(x))
    return x * keep * x.dtype.type(1.0 / (1.0 - probability))


dropout = output_of("dropout", dropout_forward)
