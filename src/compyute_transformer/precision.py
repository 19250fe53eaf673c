"""Precision: the numbers that matrix products of float32 arrays are computed with on a GPU.

    float32     float32 operands, float32 sums
    tf32        operands rounded to 10 bits of fraction by the tensor cores, float32 sums
    bfloat16    operands rounded to bfloat16 (7 bits), exact products, float32 sums

Weights, gradients, moments, norms and losses stay float32 in all three: this is mixed precision with float32 master
weights. On a CPU, and for float64, products are computed in the precision of their arrays.

What lies in memory as bfloat16, where that precision is chosen on a GPU:

    weights         a copy of all of them, made anew at the beginning of each step; see `gpu._rounded`
    activations     from the norm of a `PreNormBlock` to the branch that is added to the stream, and kept so

Each op writes numbers of the dtype of its input, and the gradient of an input has the dtype of the input; a norm alone
writes bfloat16 from float32, within `rounded_results`. The residual stream, statistics, the gradients of weights and
the loss are float32. Ops take both dtypes side by side then, see `mixes`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, get_args

from .errors import ConfigError

__all__ = ["Precision", "mixes", "precision", "rounded_results", "rounds_results", "use_precision"]

Precision = Literal["float32", "tf32", "bfloat16"]

_precision: ContextVar[Precision] = ContextVar("precision", default="float32")
_rounds: ContextVar[bool] = ContextVar("rounds", default=False)


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


def mixes(one: Any, other: Any) -> bool:
    """Return whether arrays of two dtypes may meet in one op: float32 and bfloat16, where products are in bfloat16."""
    return _precision.get() == "bfloat16" and {one.name, other.name} == {"float32", "bfloat16"}


@contextmanager
def rounded_results(wanted: bool = True) -> Iterator[None]:
    """Say that products alone read what is computed within a `with` block, so that it may be stored as they round it.

    Only kernels of norms on a GPU do so, and only where products are in bfloat16. wanted: False changes nothing.
    """
    token = _rounds.set(wanted)
    try:
        yield
    finally:
        _rounds.reset(token)


def rounds_results() -> bool:
    """Return whether results may be stored in bfloat16: `rounded_results` says so, and products are computed in it."""
    return _rounds.get() and _precision.get() == "bfloat16"
