"""Quantized weights: a matrix in 8 or 16 bits a number, widened while it is multiplied. For inference.

To generate a token takes the time of reading the weights, so fewer bytes make it faster:

    int8        32 numbers of a row share a scale s:  W = s q,  s = max |W| / 127,  q = W / s, rounded
    bfloat16    the upper 16 bits of a float32, rounded to the nearest

There is no backward, since nothing is learned in so few bits. `linear` takes such a weight as well as an array.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypeGuard, get_args

import numpy as np
from jaxtyping import Float

from ..arrays import Array
from ..dispatch import dispatched
from ..errors import DtypeError, InputError, RangeError, ShapeError, StateError
from ..precision import operands, precision, round_to_bfloat16
from ._checks import check_floats, check_shape, shown

__all__ = [
    "GROUP",
    "QuantizedWeight",
    "Weights",
    "arrays_of",
    "check_weights",
    "from_bfloat16",
    "is_quantized",
    "quantize",
    "quantize_groups",
    "quantized_linear",
    "to_bfloat16",
]

Weights = Literal["int8", "bfloat16"]
GROUP = 32  # numbers that share a scale, as in the type Q8_0 of llama.cpp
MOST_HALF = np.float32(65504)  # the greatest float16
ROWS_AT_ONCE = 1 << 20  # numbers of a matrix that are float32 at a time while it is rounded


class QuantizedWeight:
    """A matrix (O, I) in few bits. `np.asarray` widens it to float32; `weight[rows]` are some rows of it.

    values: int8 (O, I), or uint16 (O, I), the bits of bfloat16. scales: float32 (O, I / 32) of int8; None of bfloat16.
    `quantize` gives scales that float16 can hold, as files have them; in float32 they are ready to multiply with.

    Raises:
        DtypeError, ShapeError: values and scales are no such arrays.
    """

    ndim = 2
    dtype = np.dtype(np.float32)  # as which it is read

    def __init__(self, values: Array, scales: Array | None = None) -> None:
        wanted = np.uint16 if scales is None else np.int8
        if values.dtype != wanted or (scales is not None and scales.dtype != np.float32):
            raise DtypeError(
                "QuantizedWeight: values are int8 with scales of float32, or uint16 without scales, got "
                f"{values.dtype} and {None if scales is None else scales.dtype}."
            )
        check_shape("QuantizedWeight", "values", values, (None, None), "outputs by inputs")
        if scales is not None:
            groups = values.shape[1] // GROUP
            check_shape("QuantizedWeight", "scales", scales, (len(values), groups), f"one for {GROUP} numbers of a row")
            if values.shape[1] != groups * GROUP:
                raise ShapeError(f"QuantizedWeight: rows are groups of {GROUP} numbers, got {values.shape[1]} a row.")
        self.values, self.scales = values, scales

    @property
    def kind(self) -> Weights:
        """Which of the two it is."""
        return "bfloat16" if self.scales is None else "int8"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def size(self) -> int:
        return self.values.size

    @property
    def nbytes(self) -> int:
        """The bytes of values and scales."""
        return self.values.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def __len__(self) -> int:
        return len(self.values)

    def widened(self) -> Array:
        """Return the matrix as float32, in memory of its own."""
        if self.scales is None:
            return from_bfloat16(self.values)
        O, I = self.values.shape  # noqa: E741
        groups = self.values.reshape(O, I // GROUP, GROUP).astype(np.float32)
        groups *= self.scales[..., None]
        return groups.reshape(O, I)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return the matrix as an array, float32 unless another dtype is given."""
        wide = self.widened()
        return wide if dtype is None else wide.astype(dtype)

    def __getitem__(self, index: Any) -> "QuantizedWeight | Array":
        """Return some rows, quantized as they are where they are a range of them, else as float32."""
        if isinstance(index, slice):
            return QuantizedWeight(self.values[index], None if self.scales is None else self.scales[index])
        if isinstance(index, tuple):
            return self.widened()[index]
        picked, scales = self.values[index], None if self.scales is None else self.scales[index]
        C = picked.shape[-1]
        rows = QuantizedWeight(picked.reshape(-1, C), None if scales is None else scales.reshape(-1, C // GROUP))
        return rows.widened().reshape(picked.shape)

    def __setitem__(self, index: Any, value: Any) -> None:
        raise StateError(
            f"QuantizedWeight: weights in {self.kind} are for inference and are not written to. "
            "Load the model without weights=."
        )

    def __copy__(self) -> "QuantizedWeight":
        return self

    def __deepcopy__(self, memo: Any) -> "QuantizedWeight":
        return self  # nobody writes to it

    def __repr__(self) -> str:
        return f"QuantizedWeight({self.kind}, shape={self.shape})"


def arrays_of(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights that are arrays, or None, by name."""
    return {name: weight for name, weight in weights.items() if not isinstance(weight, QuantizedWeight)}


def is_quantized(weight: object) -> TypeGuard[QuantizedWeight]:
    """Return whether a weight is no array but a `QuantizedWeight`."""
    return isinstance(weight, QuantizedWeight)


def check_weights(op: str, kind: Any) -> None:
    """Raise a RangeError for a kind of weights that there is not."""
    if kind not in get_args(Weights):
        raise RangeError(f"{op}: weights is one of {', '.join(get_args(Weights))}, or None, got {shown(kind)}.")


def from_bfloat16(bits: Array) -> Array:
    """Return bfloat16 numbers, given as 16 bits each, as float32: the lower 16 bits are zero."""
    wide: Array = (bits.astype(np.uint32) << 16).view(np.float32)
    return wide


def to_bfloat16(x: Array) -> Array:
    """Return the 16 bits of each number rounded to bfloat16, to the nearest, of two equally near to the even one."""
    nearest = round_to_bfloat16(np.ascontiguousarray(x, np.float32).reshape(np.shape(x)))
    upper: Array = (nearest.view(np.uint32) >> np.uint32(16)).astype("<u2")
    return upper


def quantize_groups(groups: Array) -> tuple[Array, Array]:
    """Return int8 numbers (N, 32) and scales (N), rounded to float16, of float32 numbers (N, 32).

    Halves are rounded away from zero.
    """
    scales = np.abs(groups).max(axis=1, keepdims=True) / np.float32(127)
    inverse = np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales != 0)
    scaled = groups * inverse
    values = (np.sign(scaled) * np.floor(np.abs(scaled) + np.float32(0.5))).astype(np.int8)
    return values, np.minimum(scales[:, 0], MOST_HALF).astype(np.float16).astype(np.float32)


def quantize(matrix: Array, kind: Weights) -> QuantizedWeight | Array:
    """Return a matrix (O, I) in int8 or bfloat16; int8 is for rows of whole groups, and another matrix is returned.

    Raises:
        RangeError: an unknown kind. ShapeError: no matrix. DtypeError: no floats.
    """
    check_weights("quantize", kind)
    check_floats("quantize", matrix=matrix)
    check_shape("quantize", "matrix", matrix, (None, None), "outputs by inputs")
    O, I = matrix.shape  # noqa: E741
    if kind == "int8" and I % GROUP:
        return matrix
    values = np.empty((O, I), np.int8 if kind == "int8" else np.uint16)
    scales = np.empty((O, I // GROUP), np.float32) if kind == "int8" else None
    step = max(1, ROWS_AT_ONCE // max(1, I))
    for start in range(0, O, step):
        rows = np.ascontiguousarray(matrix[start : start + step], np.float32)
        if scales is None:
            values[start : start + step] = to_bfloat16(rows)
        else:
            found, their_scales = quantize_groups(rows.reshape(-1, GROUP))
            values[start : start + step] = found.reshape(rows.shape)
            scales[start : start + step] = their_scales.reshape(len(rows), -1)
    return QuantizedWeight(values, scales)


def check_quantized_linear(x: Any, weight: Any, bias: Any = None) -> None:
    op = "quantized_linear"
    if not isinstance(weight, QuantizedWeight):
        raise InputError(f"{op}: weight is a QuantizedWeight, got {type(weight).__name__}. Call linear.")
    check_floats(op, {"bias": bias}, x=x)
    if not isinstance(x, np.ndarray):
        raise DtypeError(f"{op}: weights in {weight.kind} are multiplied on a CPU, got x on a GPU.")
    if x.ndim < 1:
        raise ShapeError(f"{op}: x must have at least one axis, got a scalar.")
    check_shape(op, "weight", weight, (None, x.shape[-1]), "outputs by the last axis of x")  # type: ignore[arg-type]
    if bias is not None:
        check_shape(op, "bias", bias, (weight.shape[0],), "one number an output")


@dispatched(validate=check_quantized_linear)
def quantized_linear(
    x: Float[Array, "*rows I"], weight: QuantizedWeight, bias: Float[Array, "O"] | None = None
) -> Float[Array, "*rows O"]:
    """Multiply every row by the transposed weight, widened, and add the bias.

    y = x Wᵀ + b; of int8 W[o, i] = scales[o, i // 32] · values[o, i]

    In bfloat16 x is rounded, and W stays as it is; products and sums are those of the dtype of x. See `precision`.

    Shapes:
        x (*rows, I) float; weight (O, I); bias (O) or None; y (*rows, O), of the dtype of x.
    Saves:
        nothing: there is no backward.
    Raises:
        ShapeError: the widths do not fit. DtypeError: dtypes differ, or x is on a GPU.
    Source:
        the type Q8_0 of ggml, whose files the numbers come from.
    """
    (factor,) = operands(precision(), x)
    y: Array = factor @ weight.widened().astype(x.dtype).T
    return y if bias is None else y + bias
