"""CUDA kernels equal the references: on the cases of the registry, and on sizes that take a thread several rounds."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cuda_helpers import cuda
from tolerances import assert_passed, relative_error

from compyute_transformer.dispatch import use_kernels
from compyute_transformer.gpu import adamw, dropout, loss, norm, rotary
from compyute_transformer.ops.activation import (
    gated_activation_backward,
    gated_activation_forward,
    gelu_backward,
    gelu_forward,
    relu_backward,
    relu_forward,
    softmax_backward,
    softmax_forward,
)
from compyute_transformer.ops.dropout import dropout_forward
from compyute_transformer.ops.embedding import EmbeddingSaved, embedding_backward
from compyute_transformer.ops.loss import cross_entropy_backward, cross_entropy_forward
from compyute_transformer.ops.norm import layer_norm_backward, layer_norm_forward, rms_norm_backward, rms_norm_forward
from compyute_transformer.ops.rotary import (
    rotary_frequencies,
    rotary_position_backward,
    rotary_position_forward,
    rotary_tables,
)
from compyute_transformer.optim.adamw import AdamWOptions, adamw_update
from compyute_transformer.precision import rounded_results, use_precision
from compyute_transformer.random import RandomKey, keep_mask
from compyute_transformer.verify.kernels import compare_kernel
from compyute_transformer.verify.record import cast
from compyute_transformer.verify.registry import REGISTRY, Case, Op

__all__ = ["cuda"]

pytestmark = pytest.mark.usefixtures("cuda")
BFLOAT16 = ml_dtypes.bfloat16
DTYPES = [np.float32, BFLOAT16]
# bfloat16 rounds by up to 2⁻⁸ = 3.9e-3; results are compared with float64 on the same inputs
MOST = {"float32": 2e-6, "bfloat16": 4.5e-3}

NAMES = (
    "embedding",
    "rotary_position",
    "layer_norm",
    "rms_norm",
    "gelu",
    "relu",
    "silu",
    "gated_activation",
    "softmax",
)
OPS = [REGISTRY[name] for name in (*NAMES, "dropout", "cross_entropy")]
CASES = [pytest.param(op, case, id=f"{op.name}-{case.name}") for op in OPS for case in op.cases]


@pytest.mark.parametrize(("kernel", "example"), CASES)
def test_kernels_equal_the_references(kernel: Op, example: Case) -> None:
    assert_passed(compare_kernel(kernel, example, np.float32, "cuda"))


# --- larger and odd sizes --------------------------------------------------------------------------------------------


def numbers(seed: int, *shape: int, dtype: Any = np.float64, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(dtype)


def exact(value: Any) -> Any:
    """The same numbers in float64."""
    return cast(value, np.float64)


def assert_equal(found: Any, expected: Any, dtype: Any, as_float32: bool = False) -> None:
    """Each array is as exact as its dtype, and has that dtype."""
    found, expected = (values if isinstance(values, tuple) else (values,) for values in (found, expected))
    for one, other in zip(found, expected, strict=True):
        if other is None:
            assert one is None
            continue
        assert one.dtype == (np.float32 if as_float32 else dtype)
        error = relative_error(one.astype(np.float64), other)
        assert error <= MOST[np.dtype(dtype).name], f"{error:.2g}"


def check_op(forward: Any, backward: Any, arguments: tuple[Any, ...], dtype: Any, **needs: bool) -> None:
    """Compare y and the gradients of kernels with the references in float64, on the numbers that the kernels get."""
    given = cast(arguments, dtype)
    y, saved = forward.kernel("cuda")(*given)
    expected_y, expected_saved = forward.reference(*exact(given))
    dy = numbers(9, *np.shape(y), dtype=dtype)
    assert_equal(y, expected_y, dtype)
    assert backward.kernel("cuda").supports(dy, saved)
    with use_kernels("cuda"):
        gradients = backward(dy, saved, **needs)
    assert_equal(gradients, backward.reference(exact(dy), expected_saved, **needs), dtype)


WIDTHS = (5, 37, 300, 1030, 1040, 2056)  # part of a warp, more than one; whole vectors and not; several rounds


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_norms(width: int, dtype: Any) -> None:
    x = numbers(1, 7, width) * 2 + 1
    weight, bias = numbers(2, width) + 1, numbers(3, width)
    check_op(layer_norm_forward, layer_norm_backward, (x, weight, bias), dtype)
    check_op(rms_norm_forward, rms_norm_backward, (x, weight), dtype)


@pytest.mark.parametrize("names", [("needs_weight",), ("needs_bias",), ("needs_weight", "needs_bias")])
def test_norms_of_frozen_parameters(names: tuple[str, ...]) -> None:
    needs = dict.fromkeys(names, False)
    x, weight, bias = numbers(1, 3, 2, 96), numbers(2, 96), numbers(3, 96)
    check_op(layer_norm_forward, layer_norm_backward, (x, weight, bias), np.float32, **needs)
    check_op(layer_norm_forward, layer_norm_backward, (x, weight), np.float32, **needs)
    if names == ("needs_weight",):
        check_op(rms_norm_forward, rms_norm_backward, (x, weight), np.float32, **needs)


def test_norms_of_more_rows_than_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of the backward has several rows, and its sums are added up with those of the others."""
    monkeypatch.setattr(norm, "MOST_PARTIALS", 11)
    x, weight, bias = numbers(1, 41, 300), numbers(2, 300), numbers(3, 300)
    check_op(layer_norm_forward, layer_norm_backward, (x, weight, bias), np.float32)
    check_op(rms_norm_forward, rms_norm_backward, (x, weight), BFLOAT16)


@pytest.mark.parametrize("width", [37, 1040])
def test_norms_whose_result_is_rounded(width: int) -> None:
    """y is bfloat16 beside x, weight, bias and statistics of float32; so is dy, and all gradients are float32."""
    x, dy = numbers(1, 7, width, dtype=np.float32) * 2 + 1, numbers(9, 7, width, dtype=BFLOAT16)
    weight, bias = numbers(2, width, dtype=np.float32) + 1, numbers(3, width, dtype=np.float32)
    for forward, backward, parameters in (
        (layer_norm_forward, layer_norm_backward, (weight, bias)),
        (rms_norm_forward, rms_norm_backward, (weight,)),
    ):
        with use_precision("bfloat16"), rounded_results():
            y, saved = forward.kernel("cuda")(x, *parameters)
            assert backward.kernel("cuda").supports(dy, saved)
            gradients = backward.kernel("cuda")(dy, saved)
        expected, expected_saved = forward.reference(*exact((x, *parameters)))
        assert_equal(y, expected, BFLOAT16)
        assert_equal(gradients, backward.reference(exact(dy), expected_saved), np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [72, 77])
def test_norms_of_a_residual_sum(width: int, dtype: Any) -> None:
    """The sum is stored as the dtype rounds it, and normalized as it was stored; dx takes in what bypassed the norm."""
    x, residual, dy, skip = (numbers(seed, 5, width, dtype=dtype) for seed in range(4))
    weight, bias = numbers(4, width, dtype=dtype), numbers(5, width, dtype=dtype)
    total = (x.astype(np.float32) + residual.astype(np.float32)).astype(dtype)

    y, saved = norm.residual_layer_norm_forward(x, residual, weight, bias)
    np.testing.assert_array_equal(saved.x, total)
    expected, expected_saved = layer_norm_forward.reference(*exact((total, weight, bias)))
    assert_equal(y, expected, dtype)
    dx, dweight, dbias = layer_norm_backward.reference(exact(dy), expected_saved)
    found = norm.residual_layer_norm_backward(dy, skip, saved)
    assert_equal(found, (dx + exact(skip), dweight, dbias), dtype)

    y, rms_saved = norm.residual_rms_norm_forward(x, residual, weight)
    np.testing.assert_array_equal(rms_saved.x, total)
    expected, expected_rms = rms_norm_forward.reference(*exact((total, weight)))
    assert_equal(y, expected, dtype)
    dx, dweight = rms_norm_backward.reference(exact(dy), expected_rms)
    assert_equal(norm.residual_rms_norm_backward(dy, skip, rms_saved), (dx + exact(skip), dweight), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 5, 4096, 4099])
def test_activations(size: int, dtype: Any) -> None:
    x, up = numbers(1, size, scale=2.0), numbers(2, size)
    for approximate in ("none", "tanh"):
        check_op(gelu_forward, gelu_backward, (x, approximate), dtype)
    check_op(relu_forward, relu_backward, (x,), dtype)
    for gate in ("silu", "gelu", "gelu_tanh"):
        check_op(gated_activation_forward, gated_activation_backward, (x, up, gate), dtype)


def test_activations_far_from_zero() -> None:
    """No NaN where an exponential overflows, and the digits of what is small."""
    x = np.array([-1e30, -88.5, -30.0, -9.0, 0.0, 9.0, 30.0, 88.5, 1e30], np.float32)
    for approximate in ("none", "tanh"):
        y, saved = gelu_forward.kernel("cuda")(x, approximate)
        dx = gelu_backward.kernel("cuda")(np.ones_like(x), saved)
        with np.errstate(over="ignore"):
            expected, expected_saved = gelu_forward.reference(x.astype(np.float64), approximate)
            expected_dx = gelu_backward.reference(np.ones(x.size), expected_saved)
        np.testing.assert_allclose(y, np.nan_to_num(expected), rtol=1e-5, atol=1e-12)
        np.testing.assert_allclose(dx[1:-1], expected_dx[1:-1], rtol=1e-5, atol=1e-12)
        np.testing.assert_array_equal(dx[[0, -1]], [0, 1])
    x[4:6] = 0.0, np.nan
    y, saved = relu_forward.kernel("cuda")(x)
    np.testing.assert_array_equal(y, [0, 0, 0, 0, 0, np.nan, *x[6:]])
    np.testing.assert_array_equal(relu_backward.kernel("cuda")(np.ones_like(x), saved), [0] * 6 + [1] * 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 5, 300, 4100])
def test_softmax(width: int, dtype: Any) -> None:
    check_op(softmax_forward, softmax_backward, (numbers(1, 3, width, scale=3.0),), dtype)


def test_softmax_of_rows_without_scores() -> None:
    """A score of −inf has no probability; a row of nothing else is zeros, wherever the warps that see nothing are."""
    x = numbers(1, 4, 200, dtype=np.float32)
    x[0] = x[1, 7:] = x[2, :190] = -np.inf
    x[3, 5] = np.nan
    y, _ = softmax_forward.kernel("cuda")(x)
    expected, _ = softmax_forward.reference(x[:3].astype(np.float64))
    np.testing.assert_allclose(y[:3], expected, rtol=1e-6)
    assert not y[0].any()
    assert np.isnan(y[3]).all()
    x[3] = np.nan
    assert np.isnan(softmax_forward.kernel("cuda")(x)[0][3]).all()


@pytest.mark.parametrize("shape", [(), (9,), (37, 12), (5, 130), (2, 3, 5, 14), (2, 3, 4, 16)])
def test_dropout_drops_what_a_cpu_drops(shape: tuple[int, ...]) -> None:
    key = RandomKey(0x0123456789ABCDEF, 1, 77, 3 if len(shape) == 4 else 0)
    for dtype in DTYPES:
        x = np.abs(numbers(1, *shape, dtype=dtype)) + dtype(1)
        x = np.asarray(x, dtype)
        y, saved = dropout_forward.kernel("cuda")(x, 0.37, key)
        np.testing.assert_array_equal(y != 0, keep_mask(key, 0.37, shape))
        expected, _ = dropout_forward.reference(exact(x), 0.37, key)
        assert_equal(y, expected, dtype)
        assert saved.shape == shape


def test_dropout_advances_with_a_number_on_the_device() -> None:
    x, key = np.ones((5, 40), np.float32), RandomKey(5, 1, 7)
    for steps in (0, 1, 1000):
        y = dropout.keep_and_scale(x, 0.5, key, np.array(steps, np.uint32))
        np.testing.assert_array_equal(y != 0, keep_mask(key._replace(offset=7 + steps), 0.5, x.shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_ids", "width", "num_rows"), [(3, 5, 700), (11, 130, 40), (3001, 7, 300), (70, 129, 1)])
def test_embedding_adds_equal_ids(num_ids: int, width: int, num_rows: int, dtype: Any) -> None:
    ids = np.random.default_rng(1).integers(0, num_ids, num_rows)
    dy = numbers(2, num_rows, width, dtype=dtype)
    dweight = embedding_backward.kernel("cuda")(dy, EmbeddingSaved(ids.astype(np.int32), num_ids))
    assert_equal(dweight, embedding_backward.reference(exact(dy), EmbeddingSaved(ids, num_ids)), dtype)


# --- rotary position -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("width", "turned"), [(32, 32), (24, 16), (10, 6), (5, 4)])
def test_rotary_position(width: int, turned: int, interleaved: bool, dtype: Any) -> None:
    cos, sin = rotary_tables(rotary_frequencies(turned), 3, 7, np.float64)
    x = numbers(1, 2, 3, 7, width)
    check_op(rotary_position_forward, rotary_position_backward, (x, cos, sin, interleaved), dtype)


def test_rotary_position_of_bfloat16_by_tables_of_float32() -> None:
    """Tables of bfloat16 would not tell far positions apart."""
    cos, sin = rotary_tables(rotary_frequencies(16), 1000, 7)
    x = numbers(1, 2, 3, 7, 16, dtype=BFLOAT16)
    assert rotary_position_forward.kernel("cuda").supports(x, cos, sin)
    y, saved = rotary_position_forward.kernel("cuda")(x, cos, sin)
    expected, expected_saved = rotary_position_forward.reference(*exact((x, cos, sin)))
    assert_equal(y, expected, BFLOAT16)
    assert rotary_position_backward.kernel("cuda").supports(x, saved)
    dx = rotary_position_backward.kernel("cuda")(x, saved)
    assert_equal(dx, rotary_position_backward.reference(exact(x), expected_saved), BFLOAT16)


@pytest.mark.parametrize("width", [16, 10])
def test_rotary_position_within_a_packed_projection(width: int) -> None:
    """Queries and keys of all heads are turned where they lie; values are not touched."""
    B, T, H, K = 2, 5, 3, 1
    packed = numbers(1, B, T, (H + 2 * K) * width, dtype=np.float32)
    cos, sin = rotary_tables(rotary_frequencies(width), 0, T)
    heads = packed.reshape(B, T, H + 2 * K, width).transpose(0, 2, 1, 3)
    expected = heads.copy()
    expected[:, : H + K] = rotary_position_forward.reference(heads[:, : H + K], cos, sin)[0]
    turned = packed.copy()
    rotary.rotary_in_place(turned, H + K, width, cos, sin)
    np.testing.assert_allclose(turned.reshape(B, T, H + 2 * K, width).transpose(0, 2, 1, 3), expected, atol=1e-6)
    rotary.rotary_in_place(turned, H + K, width, cos, sin, back=True)
    np.testing.assert_allclose(turned, packed, atol=1e-6)


# --- loss ------------------------------------------------------------------------------------------------------------


def draw_loss(rows: int, classes: int, dtype: Any, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    logits = (numbers(1, rows, classes, scale=3.0) + offset).astype(dtype)
    targets = np.random.default_rng(2).integers(0, classes, rows)
    targets[::5] = -100
    return logits, targets


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("classes", [1, 3, 300, 4101, 8200])
def test_cross_entropy(classes: int, smoothing: float, dtype: Any) -> None:
    logits, targets = draw_loss(7, classes, dtype)
    expected, expected_saved = cross_entropy_forward.reference(exact(logits), targets, -100, smoothing)
    y, saved = cross_entropy_forward.kernel("cuda")(logits, targets, -100, smoothing)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected, rtol=3e-6, atol=1e-6)
    assert saved.num_scored == expected_saved.num_scored == 5
    expected_dlogits = cross_entropy_backward.reference(0.7, expected_saved)
    assert_equal(cross_entropy_backward.kernel("cuda")(0.7, saved), expected_dlogits, dtype)

    over = logits.copy()
    nll = loss.cross_entropy_in_place(over, targets, loss.count_scored(targets), -100, smoothing, 0.7)
    assert_equal(over, expected_dlogits, dtype)
    np.testing.assert_array_equal(nll == 0, targets == -100 if classes > 1 else True)
    mean, count = loss.mean_of_scored(nll, targets)
    np.testing.assert_allclose(mean, expected, rtol=3e-6, atol=1e-6)
    assert (mean.dtype, mean.shape, count) == (np.float32, (), 5)


def test_cross_entropy_over_the_logits() -> None:
    logits, targets = draw_loss(7, 130, np.float32)
    _, saved = cross_entropy_forward.kernel("cuda")(logits, targets)
    expected = cross_entropy_backward.kernel("cuda")(1.0, saved)
    over = cross_entropy_backward.kernel("cuda")(1.0, saved, True)
    assert over is logits
    np.testing.assert_array_equal(over, expected)


@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_cross_entropy_of_large_logits(offset: float) -> None:
    """The highest logit and the sum are kept apart, and label smoothing subtracts before it adds up."""
    logits, targets = draw_loss(5, 999, np.float32, offset)
    expected, _ = cross_entropy_forward.reference(exact(logits), targets, -100, 0.3)
    y, _ = cross_entropy_forward.kernel("cuda")(logits, targets, -100, 0.3)
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_cross_entropy_of_impossible_and_broken_rows() -> None:
    """Logits of −inf have no probability, also the first of a row; what is not finite in an ignored row stays there."""
    logits, targets = draw_loss(6, 70, np.float32)
    targets[1:] = np.arange(1, 6)
    logits[1, 6:] = logits[2, 0] = -np.inf
    logits[0] = np.nan
    expected, expected_saved = cross_entropy_forward.reference(exact(logits), targets)
    y, saved = cross_entropy_forward.kernel("cuda")(logits, targets)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    dlogits = cross_entropy_backward.kernel("cuda")(1.0, saved)
    assert_equal(dlogits, cross_entropy_backward.reference(1.0, expected_saved), np.float32)
    logits[3, 4] = np.nan
    assert np.isnan(cross_entropy_forward.kernel("cuda")(logits, targets)[0])
    none = np.full(6, -100)
    y, saved = cross_entropy_forward.kernel("cuda")(logits, none)
    assert y == 0
    assert not cross_entropy_backward.kernel("cuda")(1.0, saved).any()


def test_chunks_of_rows_give_the_loss_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head need not be computed for all positions at once: each chunk is divided by the number of all scored rows."""
    logits, targets = draw_loss(12, 64, np.float32)
    expected, saved = cross_entropy_forward.reference(exact(logits), targets)
    count = loss.count_scored(targets)
    assert (count.dtype, count.shape) == (np.int32, ())
    monkeypatch.setattr(loss, "device_of", lambda array: "cuda" if isinstance(array, np.ndarray) else "cpu")
    dloss = np.array(3.0, np.float32)  # on the device, as a gradient that is accumulated over several losses
    parts = [loss.cross_entropy_in_place(logits[i : i + 4], targets[i : i + 4], count, dloss=dloss) for i in (0, 4, 8)]
    np.testing.assert_allclose(sum(part.sum() for part in parts) / count, expected, rtol=1e-6)
    assert_equal(logits, cross_entropy_backward.reference(3.0, saved), np.float32)


# --- AdamW -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[1, 7, 1024, 3001])
def buffers(request: pytest.FixtureRequest) -> list[np.ndarray]:
    return [numbers(seed, request.param, dtype=np.float32) for seed in range(2)]


def test_adamw(buffers: list[np.ndarray]) -> None:
    weight, gradient = buffers
    state = [weight.copy(), gradient, np.zeros_like(weight), np.zeros_like(weight)]
    expected = [array.astype(np.float64) for array in state]
    options = AdamWOptions(1e-2, (0.8, 0.97), 1e-6, 0.3)
    for step in (1, 2, 3):
        adamw_update.kernel("cuda")(*state, step, options)
        adamw_update.reference(*expected, step, options)
        state[1] *= -0.7
        expected[1] *= -0.7
    assert_equal(tuple(state), tuple(expected), np.float32)
    odd = [array[1:] for array in state]  # which no vector of 16 bytes fits
    if odd[0].size:
        adamw_update.kernel("cuda")(*odd, 4, options)
        adamw_update.reference(*[array[1:] for array in expected], 4, options)
        assert_equal(tuple(state), tuple(expected), np.float32)


@pytest.mark.parametrize("max_norm", [0.0, 2.0, 1e6])
def test_adamw_whose_numbers_stay_on_the_device(buffers: list[np.ndarray], max_norm: float) -> None:
    """Clipping, decay by segments that end anywhere, the step and the learning rate."""
    weight, gradient = buffers
    size = weight.size
    ends = sorted({end for end in (1, 3, 6, 7, size // 2, size) if 0 < end <= size})
    segments = [(end, 0.3 * (index % 2)) for index, end in enumerate(ends)]
    decays = np.zeros(size)
    for start, (end, decay) in zip([0, *ends], segments, strict=False):
        decays[start:end] = decay
    expected = [exact(weight), exact(gradient), np.zeros(size), np.zeros(size)]
    optimizer = adamw.DeviceAdamW(weight, gradient, segments, (0.8, 0.97), 1e-6, max_norm)
    for step, lr in ((1, 1e-2), (2, 3e-3), (3, 0.1)):
        optimizer.learning_rate[...] = lr
        optimizer.step()
        length = np.linalg.norm(expected[1])
        np.testing.assert_allclose(optimizer.norm, length, rtol=1e-6)
        factor = max_norm / length if 0 < max_norm < length else 1.0
        expected[0] *= 1 - lr * decays
        adamw_update.reference(
            expected[0], expected[1] * factor, *expected[2:], step, AdamWOptions(lr, (0.8, 0.97), 1e-6, 0.0)
        )
        gradient *= np.float32(-2)
        expected[1] *= -2
    assert optimizer.count == 3
    assert_equal((weight, optimizer.first_moment, optimizer.second_moment), (expected[0], *expected[2:]), np.float32)


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    weight, gradient = numbers(0, 10, dtype=np.float32), numbers(1, 10, dtype=np.float32) * np.float32(1e30)
    optimizer = adamw.DeviceAdamW(weight, gradient.copy(), [(10, 0.0)], max_norm=1.0)
    optimizer.learning_rate[...] = 1e-3
    optimizer.step(np.array(3.0, np.float32))
    np.testing.assert_allclose(optimizer.norm, np.linalg.norm(exact(gradient)), rtol=1e-6)  # beyond float32's squares
    np.testing.assert_allclose(optimizer.first_moment * 10, gradient / optimizer.norm, rtol=1e-5)
    state = weight, optimizer.first_moment, optimizer.second_moment, optimizer.count
    before = [array.copy() for array in state]
    for number in (np.inf, np.nan):
        optimizer.step(np.array(number, np.float32))
    for value in (-np.inf, np.nan):
        optimizer.gradient[3] = value
        optimizer.step()
        assert not np.isfinite(optimizer.norm)
    for array, expected in zip(state, before, strict=True):
        np.testing.assert_array_equal(array, expected)
    optimizer.gradient[3] = 0
    optimizer.step(np.array(3.0, np.float32))
    assert optimizer.count == 2
    assert not np.array_equal(weight, before[0])
