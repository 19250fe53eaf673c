// Activation: GELU and SiLU, alone or as the gate of a gated activation, ReLU, and softmax.
//
// The first are bound by memory: a thread loads 16 bytes of each array, computes in registers and stores 16 bytes.
// The last thread has what is left over. The tanh form of GELU is written with the logistic function, (1 + tanh u)
// / 2 = 1 / (1 + exp(-2u)), which needs one exponential; the exact form with erfc, which keeps the digits of the
// tail. 1 - logistic(u) is computed as logistic(-u) for the same reason.
//
// Softmax reads a row once for its highest number and its sum (`Online`), and once more, from cache, to write it.
#include "common.cuh"

#define SILU 0
#define GELU 1
#define GELU_TANH 2
#define TWICE_SQRT_2_OVER_PI 1.5957691216057308f
#define CUBIC 0.044715f
#define SQRT_HALF 0.7071067811865476f
#define ONE_OVER_SQRT_2_PI 0.3989422804014327f

__device__ __forceinline__ float logistic(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ __forceinline__ float activated(float x, int kind) {
  if (kind == SILU) return x * logistic(x);
  if (kind == GELU) return x * 0.5f * erfcf(-x * SQRT_HALF);
  return x * logistic(TWICE_SQRT_2_OVER_PI * x * (1.0f + CUBIC * x * x));
}

__device__ __forceinline__ float slope(float x, int kind) {
  if (kind == GELU) return 0.5f * erfcf(-x * SQRT_HALF) + x * expf(-0.5f * x * x) * ONE_OVER_SQRT_2_PI;
  float u = x, du = 1.0f;
  if (kind == GELU_TANH) {
    u = TWICE_SQRT_2_OVER_PI * x * (1.0f + CUBIC * x * x);
    du = TWICE_SQRT_2_OVER_PI * (1.0f + 3.0f * CUBIC * x * x);
  }
  float below = logistic(u), above = logistic(-u);
  return below + (below > 0.0f && above > 0.0f ? x * below * above * du : 0.0f);  // 0 * inf would be NaN
}

template <int N>
__device__ void activate(const Storage* x, const Storage* up, Storage* y, long long size, int kind) {
  long long start = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * N;
  if (start >= size) return;
  float a[N], b[N];
  load_some<N>(x, start, size, a);
  for (int i = 0; i < N; i++) a[i] = activated(a[i], kind);
  if (up) {
    load_some<N>(up, start, size, b);
    for (int i = 0; i < N; i++) a[i] *= b[i];
  }
  store_some<N>(y, start, size, a);
}

// y = a(x), or a(x) * up
extern "C" __global__ void activation_forward(const Storage* x, const Storage* up, Storage* y, long long size, int kind,
                                              int vector) {
  vector ? activate<PER_VECTOR>(x, up, y, size, kind) : activate<1>(x, up, y, size, kind);
}

template <int N>
__device__ void activation_gradient(const Storage* dy, const Storage* x, const Storage* up, Storage* dx, Storage* dup,
                                    long long size, int kind) {
  long long start = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * N;
  if (start >= size) return;
  float db[N], a[N], b[N];
  load_some<N>(dy, start, size, db);
  load_some<N>(x, start, size, a);
  if (up) {
    load_some<N>(up, start, size, b);
    float dup_of[N];
    for (int i = 0; i < N; i++) {
      dup_of[i] = db[i] * activated(a[i], kind);
      db[i] *= b[i];
    }
    store_some<N>(dup, start, size, dup_of);
  }
  for (int i = 0; i < N; i++) db[i] *= slope(a[i], kind);
  store_some<N>(dx, start, size, db);
}

extern "C" __global__ void activation_backward(const Storage* dy, const Storage* x, const Storage* up, Storage* dx,
                                               Storage* dup, long long size, int kind, int vector) {
  if (vector) {
    activation_gradient<PER_VECTOR>(dy, x, up, dx, dup, size, kind);
  } else {
    activation_gradient<1>(dy, x, up, dx, dup, size, kind);
  }
}

template <int N>
__device__ void rectify(const Storage* x, Storage* y, bool* positive, long long size) {
  long long start = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * N;
  if (start >= size) return;
  float a[N], above[N];
  load_some<N>(x, start, size, a);
  for (int i = 0; i < N; i++) {
    above[i] = a[i] > 0.0f ? 1.0f : 0.0f;
    a[i] = a[i] <= 0.0f ? 0.0f : a[i];  // which NaN is not
  }
  store_some<N>(y, start, size, a);
  store_some<N>(positive, start, size, above);
}

// positive: where x was above zero, a byte each, which is all that the gradient needs
extern "C" __global__ void relu_forward(const Storage* x, Storage* y, bool* positive, long long size, int vector) {
  vector ? rectify<PER_VECTOR>(x, y, positive, size) : rectify<1>(x, y, positive, size);
}

template <int N>
__device__ void rectify_gradient(const Storage* dy, const bool* positive, Storage* dx, long long size) {
  long long start = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * N;
  if (start >= size) return;
  float da[N], above[N];
  load_some<N>(dy, start, size, da);
  load_some<N>(positive, start, size, above);
  for (int i = 0; i < N; i++) da[i] *= above[i];
  store_some<N>(dx, start, size, da);
}

extern "C" __global__ void relu_backward(const Storage* dy, const bool* positive, Storage* dx, long long size,
                                         int vector) {
  vector ? rectify_gradient<PER_VECTOR>(dy, positive, dx, size) : rectify_gradient<1>(dy, positive, dx, size);
}

template <int N>
__device__ void softmax_of_row(const Storage* x, Storage* y, int C, Online* tops) {
  Online online = {MINUS_INFINITY, 0.0f};
  for (int c = threadIdx.x * N; c < C; c += blockDim.x * N) {
    float a[N];
    load<N>(x + c, a);
    add<N>(online, a);
  }
  online = block_merged(online, tops);
  float shift = measured_from(online.top), scale = online.total == 0.0f ? 0.0f : 1.0f / online.total;
  for (int c = threadIdx.x * N; c < C; c += blockDim.x * N) {
    float a[N];
    load<N>(x + c, a);
    for (int i = 0; i < N; i++) a[i] = expf(a[i] - shift) * scale;
    store<N>(y + c, a);
  }
}

extern "C" __global__ void softmax_forward(const Storage* x, Storage* y, int C, int vector) {
  __shared__ Online tops[32];
  long long start = (long long)blockIdx.x * C;
  vector ? softmax_of_row<PER_VECTOR>(x + start, y + start, C, tops) : softmax_of_row<1>(x + start, y + start, C, tops);
}

template <int N>
__device__ void softmax_gradient(const Storage* dy, const Storage* y, Storage* dx, int C, float* sums) {
  float own = 0.0f;
  for (int c = threadIdx.x * N; c < C; c += blockDim.x * N) {
    float da[N], a[N];
    load<N>(dy + c, da);
    load<N>(y + c, a);
    for (int i = 0; i < N; i++) own += da[i] * a[i];
  }
  float total = block_sum(own, sums);
  for (int c = threadIdx.x * N; c < C; c += blockDim.x * N) {
    float da[N], a[N];
    load<N>(dy + c, da);
    load<N>(y + c, a);
    for (int i = 0; i < N; i++) a[i] *= da[i] - total;
    store<N>(dx + c, a);
  }
}

extern "C" __global__ void softmax_backward(const Storage* dy, const Storage* y, Storage* dx, int C, int vector) {
  __shared__ float sums[32];
  long long start = (long long)blockIdx.x * C;
  if (vector) {
    softmax_gradient<PER_VECTOR>(dy + start, y + start, dx + start, C, sums);
  } else {
    softmax_gradient<1>(dy + start, y + start, dx + start, C, sums);
  }
}
