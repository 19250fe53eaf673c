"""CUDA on a CPU: what kernels compute, and what is reported of those that a GPU would run in silence."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from cuda_on_cpu import CompileError, KernelFault, Module, compile_source

TEXT = r"""
#include <cuda_bf16.h>

extern "C" __global__ void __launch_bounds__(128)
subtract_means(const float* __restrict__ x, float* __restrict__ y, int C) {
  __shared__ float parts[4];
  const float* row = x + (long long)blockIdx.x * C;
  float sum = 0.0f;
  for (int c = threadIdx.x; c < C; c += blockDim.x) sum += row[c];
  for (int lanes = 16; lanes; lanes /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
  __syncthreads();
  float mean = (parts[0] + parts[1] + parts[2] + parts[3]) / C;
  for (int c = threadIdx.x; c < C; c += blockDim.x) y[(long long)blockIdx.x * C + c] = row[c] - mean;
}

extern "C" __global__ void scale(const __nv_bfloat16* x, __nv_bfloat16* y, int n, float factor) {
  extern __shared__ float kept[];
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  kept[threadIdx.x] = i < n ? __bfloat162float(x[i]) : 0.0f;
  __syncthreads();
  if (i < n) y[i] = __float2bfloat16(kept[threadIdx.x] * factor);
}

extern "C" __global__ void exchanges(int* out, float* total, unsigned* votes) {
  int lane = threadIdx.x % 32, i = blockIdx.x * blockDim.x + threadIdx.x;
  out[4 * i] = __shfl_sync(0xffffffffu, lane, 5);
  out[4 * i + 1] = __shfl_down_sync(0xffffffffu, lane, 3);
  out[4 * i + 2] = __shfl_up_sync(0xffffffffu, lane, 3);
  if (lane < 8) out[4 * i + 3] = __shfl_xor_sync(0xffu, lane, 4);
  votes[i] = __ballot_sync(0xffffffffu, lane % 3 == 0);
  __syncwarp();
  atomicAdd(total, 0.5f);
}

extern "C" __global__ void product_and_sum(const float* a, const float* b, const float* c, float* y) {
  y[threadIdx.x] = a[threadIdx.x] * b[threadIdx.x] + c[threadIdx.x];
}

extern "C" __global__ void place(int* out) {
  int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = 1000 * block + thread;
}

extern "C" __global__ void faulty(float* x, int n, int which) {
  __shared__ float parts[4];
  if (which == 0) x[n + threadIdx.x] = 1.0f;
  if (which == 1) x[100000] = 1.0f;
  if (which == 2) x[-1] = 1.0f;
  if (which == 3) parts[threadIdx.x] = 1.0f;
  if (which == 4) *(float4*)(x + 1) = make_float4(1.0f, 2.0f, 3.0f, 4.0f);
  if (which == 5) x[0] = n * 2000000000;
  if (which == 6 && threadIdx.x < 5) __syncthreads();
  if (which == 7 && threadIdx.x < 8) x[0] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
  if (which == 8) x[0] = __shfl_xor_sync(1u << threadIdx.x % 32, 1.0f, 1);
  if (which == 9) x[0] = n / (threadIdx.x - threadIdx.x);
  if (which == 10) x[0] += x[n - 1 + (which - 9)];
  if (which == 11) {
    if (threadIdx.x < 8) __syncthreads();
    else
      __syncthreads();
  }
}
"""
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def module() -> Module:
    return compile_source(TEXT)


def without_means(module: Module, shape: tuple[int, int] = (7, 131)) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    y = np.full_like(x, np.nan)
    module.get_function("subtract_means")((len(x),), (128,), (x, y, np.int32(x.shape[1])))
    return y, x - x.mean(1, keepdims=True)


def test_barriers_shuffles_and_shared_memory(module: Module) -> None:
    y, expected = without_means(module)
    np.testing.assert_allclose(y, expected, atol=1e-6)


def test_a_missing_barrier_shows() -> None:
    """The threads run one after the other, in a random order: some read what the others have not written yet."""
    y, _ = without_means(compile_source(TEXT.replace("  __syncthreads();\n  float mean", "  float mean")))
    assert np.isnan(y).any()


def test_bfloat16_rounds_as_others_do(module: Module) -> None:
    x = np.concatenate([RNG.normal(size=997) * 10.0 ** RNG.integers(-30, 30, 997), [np.inf, -np.inf, np.nan]])
    x = x.astype(ml_dtypes.bfloat16)
    y = np.zeros_like(x)
    given = x, y, np.int32(x.size), np.float32(1.37)
    module.get_function("scale")((8,), (128,), given, shared_mem=512)
    expected = (x.astype(np.float32) * np.float32(1.37)).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(y.astype(np.float32), expected.astype(np.float32))
    with pytest.raises(KernelFault, match="right behind the dynamic shared memory of 508 bytes"):
        module.get_function("scale")((8,), (128,), given, shared_mem=508)


def test_exchanges_within_a_warp_and_atomic_sums(module: Module) -> None:
    out, total, votes = np.full((128, 4), -1, np.int32), np.zeros(1, np.float32), np.zeros(128, np.uint32)
    module.get_function("exchanges")((2,), (64,), (out, total, votes))
    lane = np.arange(128) % 32
    np.testing.assert_array_equal(out[:, 0], 5)
    np.testing.assert_array_equal(out[:, 1], np.where(lane < 29, lane + 3, lane))
    np.testing.assert_array_equal(out[:, 2], np.where(lane >= 3, lane - 3, lane))
    np.testing.assert_array_equal(out[:, 3], np.where(lane < 8, lane ^ 4, -1))
    np.testing.assert_array_equal(votes, sum(1 << i for i in range(0, 32, 3)))
    assert total == 64.0


def test_products_are_contracted_as_told() -> None:
    """Rounded once, or the product first and then the sum."""
    a, b = (RNG.normal(size=256).astype(np.float32) for _ in range(2))
    c = -a * b
    y = np.zeros((2, 256), np.float32)
    for fused in (False, True):
        module = compile_source(TEXT, fused=fused)
        module.get_function("product_and_sum")((1,), (256,), (a, b, c, y[int(fused)]))
    exact = a.astype(np.float64) * b - (a * b).astype(np.float64)
    np.testing.assert_array_equal(y[0], 0)
    np.testing.assert_array_equal(y[1], exact.astype(np.float32))
    module = compile_source(TEXT, ("--fmad=false",))
    module.get_function("product_and_sum")((1,), (256,), (a, b, c, y[1]))
    np.testing.assert_array_equal(y[1], 0)


def test_threads_and_blocks_know_their_places(module: Module) -> None:
    out = np.zeros((24, 30), np.int32)
    module.get_function("place")((2, 3, 4), (5, 3, 2), (out,))
    np.testing.assert_array_equal(out, 1000 * np.arange(24)[:, None] + np.arange(30))


FAULTS = {
    0: "out of bounds|right before or behind argument 0",
    1: "out of bounds",
    2: "right before or behind argument 0",
    3: "line 51: an index outside of an array",
    4: "line 52: an address that is not a multiple",
    5: "line 53: a product that overflows",
    6: "divergent __syncthreads in line 54: 5 of 64 threads wait, 59 have ended",
    7: "a warp waits for lanes that never come",
    8: "line 56: reads lane .* which is not in the mask",
    9: "line 57: a division by zero",
    11: "divergent __syncthreads: some threads wait in line 6., others in line 6.",
}


@pytest.mark.parametrize("which", FAULTS)
def test_faults_are_reported_and_the_process_lives(module: Module, which: int) -> None:
    x = np.ones(10, np.float32)
    with pytest.raises(KernelFault, match=f"faulty: .*({FAULTS[which]})"):
        module.get_function("faulty")((2,), (64,), (x, np.int32(10), np.int32(which)))
    without_means(module)


def test_a_read_behind_an_array_gives_nan(module: Module) -> None:
    """Within the last 16 bytes, where no page of its own can be: what is read there shows in the result."""
    x = np.ones(10, np.float32)
    module.get_function("faulty")((1,), (1,), (x, np.int32(10), np.int32(10)))
    assert np.isnan(x[0])


def test_a_kernel_that_does_not_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cuda_on_cpu.compile.SECONDS", 1)
    endless = compile_source('extern "C" __global__ void endless(int* x) { while (*x) *x |= 1; }')
    with pytest.raises(KernelFault, match="endless: does not end within 1 s"):
        endless.get_function("endless")((1,), (1,), (np.ones(1, np.int32),))


def test_arguments_that_overlap_are_one_memory(module: Module) -> None:
    """A kernel may write over its input, or into the next part of the same buffer."""
    x = RNG.normal(size=(3, 64)).astype(np.float32)
    expected = x - x.mean(1, keepdims=True)
    module.get_function("subtract_means")((3,), (128,), (x, x, np.int32(64)))
    np.testing.assert_allclose(x, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((np.zeros(3, np.float32),), "takes 3 arguments, got 1"),
        ((np.zeros(3), np.int32(3), np.int32(99)), "argument 0 points to 4 bytes of kind 'f', got an array of float64"),
        ((np.zeros(3, np.int32), np.int32(3), np.int32(99)), "argument 0 points to 4 bytes of kind 'f'"),
        ((np.zeros((2, 3), np.float32).T, np.int32(3), np.int32(99)), "argument 0 is C-contiguous"),
        ((np.zeros(3, np.float32), 3, np.int32(99)), "argument 1 is a NumPy scalar of 4 bytes, got int"),
        ((np.zeros(3, np.float32), np.int64(3), np.int32(99)), "argument 1 has 4 bytes of kind 'i', got int64"),
        ((np.zeros(3, np.float32), np.float32(3), np.int32(99)), "argument 1 has 4 bytes of kind 'i', got float32"),
        ((3, np.int32(3), np.int32(99)), "argument 0 is an array, got int"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(module: Module, args: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        module.get_function("faulty")((1,), (1,), args)


def test_what_may_only_be_read_is_not_written(module: Module) -> None:
    x = RNG.normal(size=(3, 64)).astype(np.float32)
    x.flags.writeable = False
    with pytest.raises(KernelFault, match="writes to argument 0, which may only be read"):
        module.get_function("subtract_means")((3,), (128,), (x, x, np.int32(64)))


@pytest.mark.parametrize(("grid", "block"), [((0,), (1,)), ((1,), (1025,)), ((1,), (0,)), ((1, 70000), (1,))])
def test_grids_and_blocks_have_bounds(module: Module, grid: Any, block: Any) -> None:
    with pytest.raises(KernelFault, match="a grid has at least one block"):
        module.get_function("place")(grid, block, (np.zeros(1, np.int32),))


def test_what_does_not_compile_or_is_not_there_is_refused(module: Module) -> None:
    with pytest.raises(CompileError, match="was not declared"):
        compile_source('extern "C" __global__ void f(float* x) { x[0] = __nv_log2(x[1]); }')
    with pytest.raises(CompileError, match="no kernel"):
        compile_source("__device__ void f() {}")
    with pytest.raises(KeyError, match=r"the text has the kernels subtract_means, .*, got 'other'"):
        module.get_function("other")
