"""Weights in int8 and bfloat16: what is rounded, what a product is, and what is refused."""

import copy
from typing import Any

import numpy as np
import pytest

from compyute_transformer.dispatch import use_kernels
from compyute_transformer.errors import DtypeError, InputError, RangeError, ShapeError, StateError
from compyute_transformer.ops import embedding, linear
from compyute_transformer.ops.linear import linear_backward, linear_forward
from compyute_transformer.ops.quantized import (
    QuantizedWeight,
    from_bfloat16,
    quantize,
    quantize_groups,
    quantized_linear,
    to_bfloat16,
)

RNG = np.random.default_rng(0)


def drawn(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def by_hand(weight: QuantizedWeight) -> Any:
    """Return the matrix, a number at a time, in float64."""
    matrix = np.empty(weight.shape)
    for o, i in np.ndindex(*weight.shape):
        if weight.scales is None:
            matrix[o, i] = np.array(int(weight.values[o, i]) << 16, np.uint32).view(np.float32)
        else:
            matrix[o, i] = float(weight.scales[o, i // 32]) * int(weight.values[o, i])
    return matrix


def test_int8_has_a_scale_for_32_numbers_and_rounds_to_the_nearest() -> None:
    matrix = drawn(3, 64) * np.array([1.0, 1e-3, 0.0], np.float32)[:, None]
    weight: Any = quantize(matrix, "int8")
    assert (weight.kind, weight.shape, weight.size, weight.nbytes) == ("int8", (3, 64), 192, 192 + 24)
    for o, group in np.ndindex(3, 2):
        part = slice(32 * group, 32 * group + 32)
        highest = np.abs(matrix[o, part]).max()
        assert abs(float(weight.scales[o, group]) - highest / 127) <= highest / 127 * 2**-11 + 2**-25
        assert np.abs(weight.values[o, part]).max() == (127 if highest else 0)
        assert np.abs(weight.widened()[o, part] - matrix[o, part]).max() <= 0.56 * highest / 127
    values, scales = quantize_groups(np.array([[127.0, 0.5, -0.5, 1.5, 0.49] + 27 * [0.0]], np.float32))
    assert values[0, :5].tolist() == [127, 1, -1, 2, 0]  # halves away from zero
    assert scales.tolist() == [1.0]
    assert quantize_groups(np.full((1, 32), 3e38, np.float32))[1].tolist() == [65504.0]


def test_bfloat16_is_rounded_to_the_nearest_and_half_to_even() -> None:
    one_and_a_bit = 1 + np.array([0, 1 / 256, 3 / 256, 1 / 512, 3 / 512], np.float32)
    assert from_bfloat16(to_bfloat16(one_and_a_bit)).tolist() == [1.0, 1.0, 1 + 4 / 256, 1.0, 1 + 2 / 256]
    assert np.isnan(from_bfloat16(to_bfloat16(np.array([np.nan], np.float32))))[0]
    assert from_bfloat16(to_bfloat16(np.array([-np.inf, -2.0], np.float32))).tolist() == [-np.inf, -2.0]
    weight: Any = quantize(drawn(2, 5), "bfloat16")
    assert (weight.kind, weight.nbytes, weight.scales) == ("bfloat16", 20, None)


def test_a_large_matrix_is_rounded_as_a_small_one() -> None:
    matrix = drawn(40, 32 * 1024)  # more than is float32 at a time
    for kind in ("int8", "bfloat16"):
        whole: Any = quantize(matrix, kind)  # type: ignore[arg-type]
        last: Any = quantize(matrix[-1:], kind)  # type: ignore[arg-type]
        assert (whole.values[-1:] == last.values).all()
        assert np.array_equal(whole[-1:].widened(), last.widened())


@pytest.mark.parametrize(("kind", "I"), [("int8", 96), ("bfloat16", 96), ("bfloat16", 43), ("bfloat16", 7)])
def test_the_kernel_and_the_reference_are_the_product_with_the_widened_weight(kind: Any, I: int) -> None:  # noqa: E741
    for O in (1, 5, 300):  # noqa: E741
        weight: Any = quantize(drawn(O, I), kind)
        matrix, bias = by_hand(weight), drawn(O)
        assert np.array_equal(weight.widened(), matrix.astype(np.float32))
        for shape in ((1,), (2, 3), (7,), (17,), (2, 40)):
            x = drawn(*shape, I)
            for added in (None, bias):
                expected = x.astype(np.float64) @ matrix.T + (0 if added is None else added)
                # the sum of magnitudes: of one output alone, terms may cancel to next to nothing
                size = np.abs(x).astype(np.float64) @ np.abs(matrix).T + (0 if added is None else np.abs(added))
                for which in ("reference", "cpu"):
                    with use_kernels(which):  # type: ignore[arg-type]
                        y = quantized_linear(x, weight, added)
                        assert np.array_equal(linear(x, weight, added), y)
                    assert y.dtype == np.float32
                    assert (np.abs(y - expected) <= 1e-6 * size).all()
        exact = quantized_linear(x.astype(np.float64), weight)
        assert np.allclose(exact, x.astype(np.float64) @ matrix.T, rtol=1e-13, atol=1e-13)


def test_kernels_take_small_and_negative_scales() -> None:
    scales = np.array([[6e-8, -2.5, 1e-5, 65504.0]], np.float32)
    weight = QuantizedWeight(RNG.integers(-128, 128, (1, 128), np.int8), scales)
    for rows in (1, 4, 20):
        x = np.abs(drawn(rows, 128)) * np.repeat(1 / np.abs(scales), 32)
        with use_kernels("cpu"):
            assert np.allclose(quantized_linear(x, weight), x.astype(np.float64) @ by_hand(weight).T, rtol=1e-4)


def test_rows_of_it_are_quantized_or_float32() -> None:
    for kind in ("int8", "bfloat16"):
        weight: Any = quantize(drawn(6, 32), kind)  # type: ignore[arg-type]
        wide = weight.widened()
        assert isinstance(weight[2:5], QuantizedWeight)
        assert np.array_equal(weight[2:5].widened(), wide[2:5])
        ids = np.array([[0, 5, 5], [3, 1, 0]])
        assert np.array_equal(embedding(ids, weight), wide[ids])
        assert np.array_equal(weight[:, 3:9], wide[:, 3:9])
        assert np.array_equal(np.asarray(weight, np.float64), wide.astype(np.float64))
        assert copy.deepcopy(weight) is weight
        assert copy.copy(weight) is weight
        assert len(weight) == 6
        assert repr(weight) == f"QuantizedWeight({kind}, shape=(6, 32))"
        with pytest.raises(StateError, match=f"weights in {kind} are for inference"):
            weight[0] = 0


@pytest.mark.usefixtures("validation_only")
def test_wrong_arguments_are_refused() -> None:
    x, weight = drawn(2, 32), quantize(drawn(3, 32), "int8")
    assert not isinstance(quantize(drawn(3, 33), "int8"), QuantizedWeight)  # no whole groups: as it is
    with pytest.raises(RangeError, match="weights is one of int8, bfloat16, or None, got 'int4'"):
        quantize(x, "int4")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="quantize: matrix must have shape"):
        quantize(x[0], "int8")
    with pytest.raises(InputError, match="weight is a QuantizedWeight, got ndarray"):
        quantized_linear(x, x)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"weight must have shape \(any, 31\)"):
        linear(x[:, :31], weight)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"bias must have shape \(3,\)"):
        linear(x, weight, drawn(4))  # type: ignore[arg-type]
    with pytest.raises(DtypeError, match="bias: float64"):
        linear(x, weight, np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="got a scalar"):
        quantized_linear(np.array(1.0, np.float32), weight)  # type: ignore[arg-type]
    y, saved = linear_forward(x, weight)  # type: ignore[arg-type]
    with pytest.raises(StateError, match="weights in int8 are for inference and have no backward"):
        linear_backward(y, saved)
    bytes_, scales_ = np.zeros((2, 64), np.int8), np.zeros((2, 2), np.float32)
    for values, scales, error in (
        (bytes_, None, DtypeError),
        (bytes_.astype(np.uint16), scales_, DtypeError),
        (bytes_, scales_.astype(np.float16), DtypeError),
        (bytes_, scales_[:1], ShapeError),
        (bytes_[:, :63], scales_[:, :1], ShapeError),
        (bytes_[0], scales_, ShapeError),
    ):
        with pytest.raises(error, match="QuantizedWeight"):
            QuantizedWeight(values, scales)
