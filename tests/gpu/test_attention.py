"""Attention through cuDNN's graphs and in pieces, beside the reference: strides, masks, groups, lengths, dropout."""

from importlib import import_module
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from gpu.stand_in import installed

from compyute_transformer.dispatch import use_kernels
from compyute_transformer.errors import BackendError
from compyute_transformer.ops.attention import Mask, fused_attention_backward, fused_attention_forward
from compyute_transformer.ops.multi_head import split_heads
from compyute_transformer.precision import use_precision
from compyute_transformer.random import RandomKey
from compyute_transformer.verify.kernels import on_device

B, T, D = 3, 6, 8
KEY = RandomKey(5, 1, 7)
MASKS = {
    "none": (Mask(), T),
    "causal": (Mask(causal=True), T),
    "causal window": (Mask(causal=True, window=3), T),
    "window": (Mask(window=2), T),
    "lengths": (Mask(key_lengths=np.array([2, 6, 0])), T),
    "causal lengths": (Mask(causal=True, key_lengths=np.array([2, 6, 1])), T),
    "cross": (Mask(), 9),
    "cross lengths": (Mask(key_lengths=np.array([2, 9, 1])), 9),
    "behind a cache": (Mask(causal=True), 9),
    "window behind a cache": (Mask(causal=True, window=4), 9),
}


@pytest.fixture
def cupy(any_gpu: Any) -> Any:
    return any_gpu


def inputs(S: int, H: int = 4, K: int = 2, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Return queries, keys and values as views of a packed projection where the lengths are equal, and dy."""
    rng = np.random.default_rng(seed)
    packed = rng.normal(size=(B, max(T, S), (H + 2 * K) * D)).astype(ml_dtypes.bfloat16).astype(np.float32)
    cut = [packed[:, :T, : H * D], packed[:, :S, H * D : (H + K) * D], packed[:, :S, (H + K) * D :]]
    dy = rng.normal(size=(B, H, T, D)).astype(ml_dtypes.bfloat16).astype(np.float32)
    return [split_heads(part, D) for part in cut], dy


def on_gpu(cupy: Any, arrays: list[np.ndarray]) -> list[Any]:
    """Move views of one packed array, as views of one packed array."""
    whole = cupy.asarray(np.concatenate([x.swapaxes(1, 2).reshape(B, x.shape[2], -1) for x in arrays], -1))
    ends = np.cumsum([x.shape[1] * D for x in arrays])
    return [split_heads(whole[..., end - x.shape[1] * D : end], D) for x, end in zip(arrays, ends, strict=True)]


def error(found: Any, expected: np.ndarray) -> float:
    return float(np.abs(found.get().astype(np.float64) - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("name", MASKS)
def test_cudnn_computes_what_the_reference_computes(cupy: Any, name: str, kv_heads: int) -> None:
    mask, S = MASKS[name]
    arrays, dy = inputs(S, K=kv_heads)
    y, saved = fused_attention_forward.reference(*arrays, mask)
    gradients = fused_attention_backward.reference(dy, saved)
    given = on_gpu(cupy, arrays) if S == T else [cupy.asarray(x) for x in arrays]
    with use_kernels("cuda"), use_precision("bfloat16"):
        found, kept = fused_attention_forward(*given, on_device(mask, "cuda"))
        assert kept.y.dtype == ml_dtypes.bfloat16
        assert found.dtype == np.float32
        found_gradients = fused_attention_backward(cupy.asarray(dy), kept)
    assert error(found, y) < 1e-2
    for one, expected in zip(found_gradients, gradients, strict=True):
        assert one.dtype == np.float32
        assert error(one, expected) < 2e-2
    # what a kernel saved, a reference's backward takes too
    with use_kernels("reference"):
        for one, expected in zip(fused_attention_backward(cupy.asarray(dy), kept), gradients, strict=True):
            assert error(one, expected) < 2e-2


def test_a_packed_projection_is_read_where_it_lies(cupy: Any) -> None:
    arrays, _ = inputs(T)
    given = on_gpu(cupy, arrays)
    kernels = import_module("compyute_transformer.gpu.attention")
    narrow = [array.astype(ml_dtypes.bfloat16) for array in given]
    packed = [kernels.readable(split_heads(narrow[0].swapaxes(1, 2).reshape(B, T, -1), D))]
    assert kernels.is_readable(packed[0])
    whole = cupy.zeros((B, T, 8 * D), ml_dtypes.bfloat16)
    view = split_heads(whole[..., 2 * D : 4 * D], D)
    assert kernels.readable(view) is view
    assert not kernels.is_readable(split_heads(whole[..., 1 : 2 * D + 1], D))


def test_dropout_scales_what_is_kept_and_differs_by_key(cupy: Any) -> None:
    arrays, dy = inputs(T)
    arrays[2][...] = 1.0
    found = []
    with use_kernels("cuda"), use_precision("bfloat16"):
        given = [cupy.asarray(x) for x in arrays]
        for key in (KEY, KEY, KEY._replace(offset=8), KEY._replace(seed=6)):
            y, saved = fused_attention_forward(*given, Mask(causal=True), 0.25, key)
            found.append(y.get())
            dq, _, _ = fused_attention_backward(cupy.asarray(dy), saved)
            assert np.isfinite(dq.get()).all()
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[3])
    many = np.mean([y[:, :, -1] for y in found])
    assert many == pytest.approx(1.0, abs=0.15)


def test_gradients_follow_the_dropout_of_the_forward(cupy: Any) -> None:
    arrays, dy = inputs(T, seed=3)
    with use_kernels("cuda"), use_precision("bfloat16"):
        given = [cupy.asarray(x) for x in arrays]
        _, saved = fused_attention_forward(*given, Mask(causal=True), 0.3, KEY)
        _, _, dv = fused_attention_backward(cupy.asarray(dy), saved)
        step = np.random.default_rng(4).normal(size=arrays[2].shape).astype(np.float32)
        moved = [*given[:2], cupy.asarray(arrays[2] + step)]
        further, _ = fused_attention_forward(*moved, Mask(causal=True), 0.3, KEY)
        base, _ = fused_attention_forward(*given, Mask(causal=True), 0.3, KEY)
    slope = float(((further - base).get() * dy).sum())
    assert slope == pytest.approx(float((dv.get() * step).sum()), rel=3e-2)


def test_what_cudnn_does_not_compute_runs_by_the_reference(cupy: Any) -> None:
    arrays, _ = inputs(T)
    given = [cupy.asarray(x) for x in arrays]
    kernel = fused_attention_forward.kernel("cuda")
    array = cupy.asarray(np.ones((T, T), bool))
    assert not kernel.supports(*given)  # float32
    with use_precision("bfloat16"):
        assert kernel.supports(*given)
        assert not kernel.supports(*given, Mask(array=array))
        assert not kernel.supports(*given, Mask(soft_cap=2.0))
        assert not kernel.supports(*given, Mask(slopes=np.ones(given[0].shape[1])))
        assert not kernel.supports(*(x[..., :4] for x in given))
        assert not kernel.supports(*given[:1], *(x[:, :, :5] for x in given[1:]), Mask(causal=True))
        lengths = cupy.asarray(np.array([2, 6, 1]))
        longer = [cupy.concatenate([x, x], axis=2) for x in given[1:]]
        assert not kernel.supports(given[0], *longer, Mask(causal=True, key_lengths=lengths))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", ["none", "causal window", "causal lengths", "cross lengths", "cap and slopes"])
def test_in_pieces_the_numbers_are_those_of_the_reference(
    name: str, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask, S = (MASKS | {"cap and slopes": (Mask(causal=True, soft_cap=0.8, slopes=np.linspace(0.1, 1, 4)), 9)})[name]
    arrays, dy = inputs(S)
    wide = np.float32 if dtype == ml_dtypes.bfloat16 else dtype
    arrays, dy = [x.astype(wide) for x in arrays], dy.astype(wide)
    y, saved = fused_attention_forward.reference(*arrays, mask, 0.3, KEY)
    gradients = fused_attention_backward.reference(dy, saved)
    with installed() as cupy, use_kernels("cuda"):
        kernels = import_module("compyute_transformer.gpu._pieces")
        monkeypatch.setattr(kernels, "MOST_WEIGHTS", 4 * T * S * 2)
        given = [cupy.asarray(x.astype(dtype)) for x in arrays]
        assert [part.start for part in kernels.pieces(*given[:2])] == [0, 2]
        found, kept = fused_attention_forward(*given, on_device(mask, "cuda"), 0.3, KEY)
        found_gradients = fused_attention_backward(cupy.asarray(dy.astype(dtype)), kept)
    limit = {8: 1e-13, 4: 1e-5, 2: 2e-2}[np.dtype(dtype).itemsize]
    for one, expected in zip((found, *found_gradients), (y, *gradients), strict=True):
        assert one.dtype == dtype
        assert error(one, expected) < limit


def test_captured_attention_is_replayed_and_a_new_shape_is_refused_there(cupy: Any) -> None:
    arrays, dy = inputs(T)
    given, dy_there = [cupy.asarray(x) for x in arrays], cupy.asarray(dy)
    mask = Mask(causal=True)
    pool = cupy.cuda.MemoryPool()
    with use_kernels("cuda"), use_precision("bfloat16"):
        for _ in range(2):
            y, saved = fused_attention_forward(*given, mask)
            expected = [y, *fused_attention_backward(dy_there, saved)]
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream, cupy.cuda.using_allocator(pool.malloc):
            stream.begin_capture()
            y, saved = fused_attention_forward(*given, mask)
            found = [y, *fused_attention_backward(dy_there, saved)]
            with pytest.raises(BackendError, match="built before it is captured"):
                fused_attention_forward(*given, Mask())
            graph = stream.end_capture()
        graph.launch()
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.get(), other.get())


def test_without_cudnn_the_program_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    with installed() as cupy, use_precision("bfloat16"):
        given = [cupy.asarray(x) for x in inputs(T)[0]]
        for _ in range(2):
            fused_attention_forward(*given)
    said = [record.getMessage() for record in caplog.records if "cuDNN" in record.getMessage()]
    assert len(said) == 1
    assert "pip install 'compyute-transformer[gpu]'" in said[0]
