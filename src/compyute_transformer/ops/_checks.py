"""The validation of the ops: wrong input is refused here, never broadcast into something that happens to work.

Each check names the op, the rule, what came, and the remedy.
"""

from typing import Any

import numpy as np

from ..arrays import Array, array_module
from ..errors import DtypeError, RangeError, ShapeError

__all__ = [
    "check_floats",
    "check_gradient",
    "check_heads",
    "check_ids",
    "check_last_axis",
    "check_probability",
    "check_shape",
]


def check_floats(op: str, **arrays: Array | None) -> Any:
    """All arrays hold real floats of one dtype on one device; None is passed over. Returns their array module."""
    xp = array_module(*arrays.values())
    dtypes = {getattr(array, "dtype", None) for array in arrays.values() if array is not None}
    if len(dtypes) > 1 or any(dtype is None or dtype.kind not in "fcV" for dtype in dtypes):
        given = {name: array for name, array in arrays.items() if array is not None}
        came = ", ".join(f"{name}: {getattr(x, 'dtype', None) or type(x).__name__}" for name, x in given.items())
        raise DtypeError(
            f"{op}: all arrays hold floats of one dtype, got {came}. Convert them with array.astype(numpy.float32)."
        )
    return xp


def check_shape(op: str, name: str, array: Array, shape: tuple[int | None, ...], why: str) -> None:
    """The array has this shape; None stands for any length. `why` says where the lengths come from."""
    came = array.shape
    if came != shape and (len(came) != len(shape) or any(map(_differ, shape, came))):
        wanted = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ("," if len(shape) == 1 else "") + ")"
        raise ShapeError(f"{op}: {name} must have shape {wanted}, {why}, got {tuple(came)}.")


def _differ(want: int | None, got: int) -> bool:
    return want is not None and want != got


def check_last_axis(op: str, name: str, array: Array) -> None:
    """There is a last axis, and something on it."""
    if array.ndim < 1 or array.shape[-1] == 0:
        raise ShapeError(f"{op}: {name} must have a last axis that is not empty, got shape {tuple(array.shape)}.")


def check_gradient(op: str, dy: Array, like: Array, shape: tuple[int, ...]) -> None:
    """The gradient dy has the shape of y, and the dtype and device of what the forward saved."""
    array_module(dy, like)
    check_shape(op, "dy", dy, shape, "the shape of y")
    if dy.dtype != like.dtype:
        raise DtypeError(
            f"{op}: dy holds numbers of the forward's dtype, {like.dtype}, got {dy.dtype}. "
            f"Convert it with array.astype(numpy.{like.dtype})."
        )


def check_probability(op: str, probability: float) -> None:
    """A probability of dropping lies in [0, 1): at 1 nothing would be left to scale."""
    if not 0.0 <= probability < 1.0:
        raise RangeError(f"{op}: a dropout probability lies in [0, 1), got {probability}. Give 0 to drop nothing.")


def check_ids(op: str, name: str, ids: Array, size: int, ignore: int | None = None) -> None:
    """Ids are integers in [0, size), or the ignored id. A negative id would otherwise count from the end in silence."""
    if getattr(ids, "dtype", None) is None or ids.dtype.kind not in "iu":
        came = getattr(ids, "dtype", type(ids).__name__)
        raise DtypeError(f"{op}: {name} are integers, got {came}. Convert them with array.astype(numpy.int64).")
    outside = (ids < 0) | (ids >= size)
    if ignore is not None:
        outside &= ids != ignore
    if outside.any():
        where = tuple(int(axis[0]) for axis in outside.nonzero())
        besides = "" if ignore is None else f" (or {ignore}, which is ignored)"
        raise RangeError(
            f"{op}: {name} lie in [0, {size}){besides}, got {int(ids[where])} at {where}. "
            "Was the text encoded with the tokenizer this model was trained with?"
        )


def check_heads(op: str, embed_dim: int, num_heads: int, num_kv_heads: int) -> None:
    """The width divides into the heads, and the heads into groups that share a key/value head."""
    for name, count in (("num_heads", num_heads), ("num_kv_heads", num_kv_heads)):
        if not isinstance(count, (int, np.integer)) or count < 1:
            raise RangeError(f"{op}: {name} is a whole number of at least 1, got {count}.")
    if embed_dim < 1:
        raise ShapeError(f"{op}: the width of all heads together is at least 1, got {embed_dim}.")
    if embed_dim % num_heads:
        raise ShapeError(
            f"{op}: num_heads must divide the width, got width {embed_dim} and {num_heads} heads. "
            f"The heads that divide it: {', '.join(str(n) for n in range(1, embed_dim + 1) if embed_dim % n == 0)}."
        )
    if num_heads % num_kv_heads:
        raise ShapeError(
            f"{op}: num_kv_heads must divide num_heads, got {num_heads} heads and {num_kv_heads} key/value heads."
        )
