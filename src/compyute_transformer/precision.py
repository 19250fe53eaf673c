"""Precision: the numbers that matrix products of float32 arrays are computed with on a GPU.

    float32     float32 operands, float32 sums
    tf32        operands rounded to 10 bits of fraction by the tensor cores, float32 sums
    bfloat16    operands rounded to bfloat16 (7 bits), exact products, float32 sums

Weights, gradients, moments, norms and losses stay float32 in all three: this is mixed precision with float32 master
weights. On a CPU, and for float64, products are computed in the precision of their arrays.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, get_args

from .errors import ConfigError

__all__ = ["Precision", "precision", "use_precision"]

Precision = Literal["float32", "tf32", "bfloat16"]

_precision: ContextVar[Precision] = ContextVar("precision", default="float32")


def precision() -> Precision:
    """Return the precision that `use_precision` chose; float32 where it chose none."""
    return _precision.get()


@contextmanager
def use_precision(chosen: Precision) -> Iterator[None]:
    """Choose the precision of matrix products on a GPU, within a `with` block.

    Raises:
        ConfigError: there is no such precision.
    """
    if chosen not in get_args(Precision):
        raise ConfigError(f"use_precision: a precision is one of {', '.join(get_args(Precision))}, got {chosen!r}.")
    token = _precision.set(chosen)
    try:
        yield
    finally:
        _precision.reset(token)
