"""Precision: the numbers that matrix products of float32 arrays are computed with.

    float32     float32 operands, float32 sums
    tf32        operands rounded to 10 bits of fraction by a GPU's tensor cores, float32 sums; on a CPU as float32
    bfloat16    operands rounded to bfloat16 (7 bits of fraction), exact products, float32 sums

Linear layers, patch embedding, the head, and the scores and values of attention are products. A weight that is held in
bfloat16 or int8 is multiplied as it is, whatever the precision; what meets it is rounded. Weights, gradients,
moments, softmax, norms, the residual stream and the loss stay float32 in all three: this is mixed precision with
float32 master weights. Products of float64 arrays are computed in float64, whatever the precision.

A precision is part of what an op computes: the references round their operands by `round_to_bfloat16`, so that they
give the same as a kernel on any machine, and a backward computes in the precision of its forward.

On a CPU whose products are in bfloat16, a feed-forward network keeps for its backward what it has rounded: its input,
its hidden numbers after the activation, and the slopes of the activation, which are rounded for this alone.

What lies in the memory of a GPU as bfloat16 in training, where kernels compute in that precision:

    weights        a copy of all of them, made anew at the beginning of each step; see `gpu._rounded`
    activations    from the norm of a `PreNormBlock` to the branch that is added to the stream, and kept so

Each op writes numbers of the dtype of its input, and the gradient of an input has the dtype of the input; a norm alone
writes bfloat16 from float32, within `rounded_results`. The gradients of weights are float32. On a GPU ops take both
dtypes side by side then, see `mixes`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, get_args

import numpy as np

from .arrays import Array, array_module, device_of
from .errors import ConfigError

__all__ = [
    "Precision",
    "check_precision",
    "mixes",
    "operands",
    "precision",
    "round_to_bfloat16",
    "rounded_results",
    "rounds_results",
    "use_precision",
]

Precision = Literal["float32", "tf32", "bfloat16"]

_precision: ContextVar[Precision] = ContextVar("precision", default="float32")
_rounds: ContextVar[bool] = ContextVar("rounds", default=False)

HALF, KEPT, QUIET = np.uint32(0x7FFF), np.uint32(0xFFFF0000), np.uint32(0x00400000)


def precision() -> Precision:
    """Return the precision that `use_precision` chose; float32 where it chose none."""
    return _precision.get()


def check_precision(name: str, chosen: Any, also: Sequence[str | None] = ()) -> None:
    """Raise ConfigError unless there is such a precision. also: what is accepted besides, for the message."""
    if chosen not in get_args(Precision):
        known = ", ".join(map(str, (*get_args(Precision), *also)))
        raise ConfigError(f"{name}: a precision is one of {known}, got {chosen!r}.")


@contextmanager
def use_precision(chosen: Precision) -> Iterator[None]:
    """Choose the precision of matrix products within a `with` block; a backward has the one of its forward.

    Raises:
        ConfigError: there is no such precision.
    """
    check_precision("use_precision", chosen)
    token = _precision.set(chosen)
    try:
        yield
    finally:
        _precision.reset(token)


def round_to_bfloat16(x: Array) -> Array:
    """Return float32 numbers rounded to the nearest bfloat16, as float32; of two that are as near, the even one.

    A bfloat16 is the upper half of a float32. Adding half of the last bit that is kept carries into it where the lower
    half is more than half of it; one bit less is added to an even number, so that it keeps its value in a tie. A carry
    beyond the largest number gives infinity. NaN stays NaN.
    """
    xp = array_module(x)
    bits = x.view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    nearest = (bits + (HALF + odd)) & KEPT
    rounded: Array = xp.where(x != x, (bits | QUIET) & KEPT, nearest).view(np.float32)
    return rounded


def operands(chosen: Precision, *arrays: Array) -> tuple[Array, ...]:
    """Return arrays as they are multiplied in a precision: float32 rounded to bfloat16 where it says so.

    What is stored as bfloat16 then becomes float32, of the same value: sums are float32.
    """
    if chosen != "bfloat16":
        return arrays
    wide = (array.astype(np.float32) if array.dtype.name == "bfloat16" else array for array in arrays)
    return tuple(round_to_bfloat16(array) if array.dtype == np.float32 else array for array in wide)


def mixes(one: Array, other: Array) -> bool:
    """Return whether two arrays of different dtypes may meet in one op: float32 and bfloat16, on a GPU."""
    return {one.dtype.name, other.dtype.name} == {"float32", "bfloat16"} and device_of(one) == "cuda"


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
