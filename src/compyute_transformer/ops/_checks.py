"""The validation of the ops: wrong input is refused here, never broadcast into something that happens to work.

`dispatch` calls an op's check before its kernel or its reference, so a check may meet any object whatever: it looks at
types first, then at dtypes, shapes and values. Arrays are NumPy's or CuPy's. Lists and tensors of other libraries are
refused with the conversion that takes them, since a conversion in silence would copy at every call.

Each message names the op, the rule, what came, and the remedy.
"""

from typing import Any, TypeGuard

import numpy as np

from ..arrays import Array, array_module, device_of, is_captured
from ..errors import DtypeError, InputError, RangeError, ShapeError
from ..precision import mixes, precision
from ..random import RandomKey

__all__ = [
    "check_array",
    "check_bool",
    "check_floats",
    "check_gradient",
    "check_heads",
    "check_ids",
    "check_integer",
    "check_key",
    "check_last_axis",
    "check_number",
    "check_probability",
    "check_saved",
    "check_shape",
]


MOST = 1 << 31  # whole numbers are below it where nothing else bounds them


def shown(value: object) -> str:
    """Return a value as an error message shows it: in full where it is short."""
    text = str(value) if isinstance(value, (int, float, np.generic)) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def is_array(value: object) -> TypeGuard[Array]:
    """Return whether a value is an array of NumPy's or CuPy's. Masked arrays and matrices follow other rules."""
    if type(value) is np.ndarray:
        return True
    if isinstance(value, np.ndarray):
        return not isinstance(value, (np.ma.MaskedArray, np.matrix))
    return device_of(value) == "cuda"


def check_array(op: str, name: str, value: object) -> None:
    """Raise a DtypeError unless the value is an array."""
    if type(value) is not np.ndarray and not is_array(value):
        came = type(value).__name__
        raise DtypeError(
            f"{op}: {name} is a NumPy or CuPy array, got {came}. "
            f"Convert it with {'array.filled(...)' if came == 'MaskedArray' else 'numpy.asarray'}."
        )


def check_floats(op: str, optional: dict[str, Array | None] | None = None, /, **arrays: Array) -> Any:
    """Raise a DtypeError unless all arrays hold floats of one dtype, on one device. Return their array module.

    optional: further arrays that may be None.
    """
    if optional is not None:
        for name, given in optional.items():
            if given is not None:
                arrays[name] = given
    first = None
    for name, array in arrays.items():
        if type(array) is not np.ndarray:
            check_array(op, name, array)
        dtype = array.dtype
        if dtype is first:  # the usual case: NumPy keeps one object for each of its dtypes
            continue
        if first is None:
            first, one = dtype, array
        differs = dtype != first and not (precision() == "bfloat16" and mixes(array, one))
        if differs or dtype.kind not in "fcV" or dtype.char in "gG":  # g: wider than float64
            came = ", ".join(f"{name}: {getattr(x, 'dtype', type(x).__name__)}" for name, x in arrays.items())
            raise DtypeError(
                f"{op}: all arrays hold floats of one dtype, got {came}. Convert them with array.astype(numpy.float32)."
            )
    return array_module(*arrays.values())


def check_shape(op: str, name: str, array: Array, shape: tuple[int | None, ...], why: str) -> None:
    """Raise a ShapeError unless the array has this shape, where None is any length. `why`: where it comes from."""
    came = array.shape
    if came == shape:
        return
    if len(came) != len(shape) or came != tuple([n if n is not None else m for n, m in zip(shape, came, strict=True)]):
        wanted = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ("," if len(shape) == 1 else "") + ")"
        raise ShapeError(f"{op}: {name} must have shape {wanted}, {why}, got {tuple(came)}.")


def check_last_axis(op: str, name: str, array: Array) -> None:
    """Raise a ShapeError unless there is a last axis with something on it."""
    if array.ndim < 1 or array.shape[-1] == 0:
        raise ShapeError(f"{op}: {name} must have a last axis that is not empty, got shape {tuple(array.shape)}.")


def check_saved(op: str, saved: object, kind: type) -> None:
    """Raise an InputError unless `saved` is what the forward of this op returned beside y."""
    if not isinstance(saved, kind):
        raise InputError(
            f"{op}: saved is the {kind.__name__} that {op.replace('backward', 'forward')} returned beside y, "
            f"got {type(saved).__name__}."
        )


def check_gradient(op: str, dy: Array, like: Array | None, shape: tuple[int, ...]) -> None:
    """Raise unless dy has the shape of y, and the dtype and device of `like`, which the forward saved, if it did."""
    if type(dy) is not np.ndarray:
        check_array(op, "dy", dy)
    check_shape(op, "dy", dy, shape, "the shape of y")
    if like is None:
        check_floats(op, dy=dy)
    elif dy.dtype != like.dtype and not mixes(dy, like):  # in the precision of the forward
        raise DtypeError(
            f"{op}: dy holds numbers of the forward's dtype, {like.dtype}, got {dy.dtype}. "
            f"Convert it with array.astype(numpy.{like.dtype})."
        )
    array_module(dy, like)


def check_bool(op: str, name: str, value: object) -> None:
    """Raise a DtypeError unless the value is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise DtypeError(f"{op}: {name} is True or False, got {shown(value)}.")


def check_integer(op: str, name: str, value: Any, low: int, high: int = MOST, hint: str = "") -> None:
    """Raise a RangeError unless the value is a whole number in [low, high). NumPy's integers are taken, bool is not."""
    whole = type(value) is int or isinstance(value, np.integer)
    if not whole or not low <= value < high:
        within = f"of at least {low}" if high == MOST and not (whole and value >= high) else f"in [{low}, {high})"
        raise RangeError(f"{op}: {name} is a whole number {within}, got {shown(value)}.{hint}")


def check_number(op: str, name: str, value: Any, low: float, high: float, hint: str = "") -> None:
    """Raise a RangeError unless the value is a number in [low, high). NumPy's numbers are taken, bool and NaN not."""
    number = type(value) is float or (isinstance(value, (int, float, np.integer, np.floating)) and value is not True)
    if not number or value is False or not low <= value < high:
        raise RangeError(f"{op}: {name} lies in [{low:g}, {high:g}), got {shown(value)}.{hint}")


def check_probability(op: str, probability: Any) -> None:
    """Raise a RangeError unless a probability of dropping lies in [0, 1): at 1 nothing would be left to scale."""
    check_number(op, "a dropout probability", probability, 0.0, 1.0, " Give 0 to drop nothing.")


def check_key(op: str, key: object) -> None:
    """Raise unless the key is a RandomKey whose numbers fit the counter they are part of."""
    if not isinstance(key, RandomKey):
        raise InputError(
            f"{op}: key is a RandomKey, which says which elements are dropped, got {type(key).__name__}. "
            "Pass Generator(seed).next()."
        )
    for name, value, bits in zip(RandomKey._fields, key, (64, 16, 32, 16), strict=True):
        check_integer(op, f"key.{name}", value, 0, 1 << bits)


def check_ids(op: str, name: str, ids: Array, size: int, ignore: int | None = None) -> None:
    """Raise unless ids are integers in [0, size), or the ignored id: a negative id would count from the end."""
    check_array(op, name, ids)
    if ids.dtype.kind not in "iu":
        raise DtypeError(f"{op}: {name} are integers, got {ids.dtype}. Convert them with array.astype(numpy.int64).")
    if is_captured(ids):  # the CPU reads nothing then: the ids were looked at in the step before the capture
        return
    # as unsigned numbers, negative ids lie above all others: one comparison finds both kinds
    if not array_module(ids).count_nonzero(ids.astype(np.int64, copy=False).view(np.uint64) >= size):
        return
    outside = (ids < 0) | (ids >= size)
    if ignore is not None:
        outside &= ids != ignore
    if outside.any():
        where = tuple(int(axis[0]) for axis in outside.nonzero()) if outside.ndim else ()
        besides = "" if ignore is None else f" (or {ignore}, which is ignored)"
        raise RangeError(
            f"{op}: {name} lie in [0, {size}){besides}, got {int(ids[where])}{f' at {where}' if where else ''}. "
            "Was the text encoded with the tokenizer this model was trained with?"
        )


def check_heads(op: str, embed_dim: int, num_heads: Any, num_kv_heads: Any) -> None:
    """Raise unless the width divides into the heads, and the heads into groups that share a key/value head."""
    check_integer(op, "num_heads", num_heads, 1)
    check_integer(op, "num_kv_heads", num_kv_heads, 1)
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
