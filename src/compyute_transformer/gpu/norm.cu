// Norm: layer norm and RMS norm, forward and backward, with a residual sum in the same sweep.
//
// Forward. A warp has a row. Its 32 lanes read 16 bytes each, side by side, and go on 512 bytes further, so that a
// warp's load is one piece of memory. The row is read three times: for its mean, for the squares around it, and to
// write y. Only the first time it comes from memory; after that it lies in the first-level cache. Nothing is shared
// between warps, so there is no barrier. With a residual, s = x + residual is stored first and s is normalized:
// what a block of a transformer adds before its norm needs no kernel of its own, and is read once instead of twice.
//
// Backward. dx of a row needs two sums over the row; dweight and dbias are sums over all rows. A block has every
// gridDim.x-th row. A thread has the same columns in each of them, so it alone adds to these columns' sums, which
// lie in shared memory: no atomics, and the order of a sum is always the same. Each block writes its sums as one
// row of `dweights` and `dbiases`, and `sum_of_partials` adds these rows in a fixed order.
//
// RMS norm is the same without the mean, without bias and its gradient: CENTERED = false.
//
// The kernels `..._rounded` are for mixed precision: x, weight and bias are float32, and y, which products alone read,
// is written as they round it; dy is then bfloat16 too, and dx float32.
#include "common.cuh"

template <int N, bool CENTERED, class X, class Y>
__device__ void normalize(const X* x, const X* residual, const X* weight, const X* bias, X* sum, Y* y, float* mean,
                          float* rstd, int rows, int C, float eps) {
  int lane = threadIdx.x % 32;
  int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= rows) return;  // the whole warp returns: no lane waits for another
  long long start = (long long)row * C;
  float total = 0.0f, squares = 0.0f;
  if (residual) {
    for (int c = lane * N; c < C; c += 32 * N) {
      float a[N], b[N];
      load<N>(x + start + c, a);
      load<N>(residual + start + c, b);
      for (int i = 0; i < N; i++) a[i] += b[i];
      store<N>(sum + start + c, a);
    }
    x = sum;  // from here on as it was stored, rounded: each lane reads what it wrote itself
  }
  float m = 0.0f;
  if (CENTERED) {
    for (int c = lane * N; c < C; c += 32 * N) {
      float a[N];
      load<N>(x + start + c, a);
      for (int i = 0; i < N; i++) total += a[i];
    }
    m = warp_sum(total) / C;
  }
  for (int c = lane * N; c < C; c += 32 * N) {
    float a[N];
    load<N>(x + start + c, a);
    for (int i = 0; i < N; i++) squares += (a[i] - m) * (a[i] - m);
  }
  float r = 1.0f / sqrtf(warp_sum(squares) / C + eps);
  if (lane == 0) {
    if (CENTERED) mean[row] = m;
    rstd[row] = r;
  }
  for (int c = lane * N; c < C; c += 32 * N) {
    float a[N], w[N], b[N];
    load<N>(x + start + c, a);
    load<N>(weight + c, w);
    for (int i = 0; i < N; i++) a[i] = (a[i] - m) * r * w[i];
    if (CENTERED && bias) {
      load<N>(bias + c, b);
      for (int i = 0; i < N; i++) a[i] += b[i];
    }
    store<N>(y + start + c, a);
  }
}

extern "C" __global__ void layer_norm_forward(const Storage* x, const Storage* residual, const Storage* weight,
                                              const Storage* bias, Storage* sum, Storage* y, float* mean, float* rstd,
                                              int rows, int C, float eps, int vector) {
  if (vector) {
    normalize<PER_VECTOR, true>(x, residual, weight, bias, sum, y, mean, rstd, rows, C, eps);
  } else {
    normalize<1, true>(x, residual, weight, bias, sum, y, mean, rstd, rows, C, eps);
  }
}

extern "C" __global__ void rms_norm_forward(const Storage* x, const Storage* residual, const Storage* weight, Storage*
                                            sum, Storage* y, float* rrms, int rows, int C, float eps, int vector) {
  if (vector) {
    normalize<PER_VECTOR, false>(x, residual, weight, (const Storage*)nullptr, sum, y, nullptr, rrms, rows, C, eps);
  } else {
    normalize<1, false>(x, residual, weight, (const Storage*)nullptr, sum, y, nullptr, rrms, rows, C, eps);
  }
}

#define PER_FLOATS 4  // floats that one instruction loads

extern "C" __global__ void layer_norm_forward_rounded(const float* x, const float* weight, const float* bias,
                                                      Storage* y, float* mean, float* rstd, int rows, int C, float eps,
                                                      int vector) {
  const float* none = nullptr;
  if (vector) {
    normalize<PER_FLOATS, true>(x, none, weight, bias, (float*)nullptr, y, mean, rstd, rows, C, eps);
  } else {
    normalize<1, true>(x, none, weight, bias, (float*)nullptr, y, mean, rstd, rows, C, eps);
  }
}

extern "C" __global__ void rms_norm_forward_rounded(const float* x, const float* weight, Storage* y, float* rrms,
                                                    int rows, int C, float eps, int vector) {
  const float* none = nullptr;
  if (vector) {
    normalize<PER_FLOATS, false>(x, none, weight, none, (float*)nullptr, y, nullptr, rrms, rows, C, eps);
  } else {
    normalize<1, false>(x, none, weight, none, (float*)nullptr, y, nullptr, rrms, rows, C, eps);
  }
}

struct Sums {
  float dxhat, product;
};

template <int N, bool CENTERED, class X, class Y>
__device__ void norm_gradient(const Y* dy, const X* skip, const X* x, const X* weight, const float* mean, const float*
                              rstd, X* dx, float* dweights, float* dbiases, int rows, int C, Sums (*parts)[32],
                              float* sums) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, turn = 0;
  int first = threadIdx.x * N, step = blockDim.x * N;
  if (dweights) {
    for (int c = first; c < C; c += step) {
      for (int i = 0; i < N; i++) sums[c + i] = sums[C + c + i] = 0.0f;
    }
  }
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    long long start = (long long)row * C;
    float m = CENTERED ? mean[row] : 0.0f, r = rstd[row];
    Sums own = {0.0f, 0.0f};
    for (int c = first; c < C; c += step) {
      float db[N], a[N], w[N];
      load<N>(dy + start + c, db);
      load<N>(x + start + c, a);
      load<N>(weight + c, w);
      for (int i = 0; i < N; i++) {
        float xhat = (a[i] - m) * r, dxhat = db[i] * w[i];
        own.dxhat += dxhat;
        own.product += dxhat * xhat;
        if (dweights) {
          sums[c + i] += db[i] * xhat;
          if (CENTERED) sums[C + c + i] += db[i];
        }
      }
    }
    // the sums of the block with one barrier a row: rows take turns with two sets of parts, so that a warp that is
    // ahead writes into those that nobody reads any more
    own = {warp_sum(own.dxhat), warp_sum(own.product)};
    if (lane == 0) parts[turn][warp] = own;
    __syncthreads();
    Sums none = {0.0f, 0.0f}, part = lane < blockDim.x / 32 ? parts[turn][lane] : none;
    float mean_dxhat = CENTERED ? warp_sum(part.dxhat) / C : 0.0f, mean_product = warp_sum(part.product) / C;
    turn = 1 - turn;
    for (int c = first; c < C; c += step) {
      float db[N], a[N], w[N];
      load<N>(dy + start + c, db);
      load<N>(x + start + c, a);
      load<N>(weight + c, w);
      for (int i = 0; i < N; i++) a[i] = r * (db[i] * w[i] - mean_dxhat - (a[i] - m) * r * mean_product);
      if (skip) {  // the gradient that reached the residual sum from elsewhere
        load<N>(skip + start + c, db);
        for (int i = 0; i < N; i++) a[i] += db[i];
      }
      store<N>(dx + start + c, a);
    }
  }
  if (dweights) {
    for (int c = first; c < C; c += step) {
      for (int i = 0; i < N; i++) {
        dweights[(long long)blockIdx.x * C + c + i] = sums[c + i];
        if (CENTERED) dbiases[(long long)blockIdx.x * C + c + i] = sums[C + c + i];
      }
    }
  }
}

// Dynamic shared memory: 2 * C floats where dweights is given, else none.
extern "C" __global__ void layer_norm_backward(const Storage* dy, const Storage* skip, const Storage* x,
                                               const Storage* weight, const float* mean, const float* rstd, Storage* dx,
                                               float* dweights, float* dbiases, int rows, int C, int vector) {
  extern __shared__ float sums[];
  __shared__ Sums parts[2][32];
  if (vector) {
    norm_gradient<PER_VECTOR, true>(dy, skip, x, weight, mean, rstd, dx, dweights, dbiases, rows, C, parts, sums);
  } else {
    norm_gradient<1, true>(dy, skip, x, weight, mean, rstd, dx, dweights, dbiases, rows, C, parts, sums);
  }
}

extern "C" __global__ void rms_norm_backward(const Storage* dy, const Storage* skip, const Storage* x,
                                             const Storage* weight, const float* rrms, Storage* dx, float* dweights,
                                             int rows, int C, int vector) {
  extern __shared__ float sums[];
  __shared__ Sums parts[2][32];
  if (vector) {
    norm_gradient<PER_VECTOR, false>(dy, skip, x, weight, nullptr, rrms, dx, dweights, nullptr, rows, C, parts, sums);
  } else {
    norm_gradient<1, false>(dy, skip, x, weight, nullptr, rrms, dx, dweights, nullptr, rows, C, parts, sums);
  }
}

extern "C" __global__ void layer_norm_backward_rounded(const Storage* dy, const float* skip, const float* x,
                                                       const float* weight, const float* mean, const float* rstd,
                                                       float* dx, float* dweights, float* dbiases, int rows, int C,
                                                       int vector) {
  extern __shared__ float sums[];
  __shared__ Sums parts[2][32];
  if (vector) {
    norm_gradient<PER_FLOATS, true>(dy, skip, x, weight, mean, rstd, dx, dweights, dbiases, rows, C, parts, sums);
  } else {
    norm_gradient<1, true>(dy, skip, x, weight, mean, rstd, dx, dweights, dbiases, rows, C, parts, sums);
  }
}

extern "C" __global__ void rms_norm_backward_rounded(const Storage* dy, const float* skip, const float* x,
                                                     const float* weight, const float* rrms, float* dx, float* dweights,
                                                     int rows, int C, int vector) {
  extern __shared__ float sums[];
  __shared__ Sums parts[2][32];
  if (vector) {
    norm_gradient<PER_FLOATS, false>(dy, skip, x, weight, nullptr, rrms, dx, dweights, nullptr, rows, C, parts, sums);
  } else {
    norm_gradient<1, false>(dy, skip, x, weight, nullptr, rrms, dx, dweights, nullptr, rows, C, parts, sums);
  }
}

// Add the rows of (count, C) partial sums. A block of (32, 8) threads has 32 columns; each of its 8 warps adds every
// eighth row, and the first warp adds the eight results.
extern "C" __global__ void sum_of_partials(const float* partials, int count, int C, Storage* out) {
  __shared__ float parts[8][32];
  int c = blockIdx.x * 32 + threadIdx.x;
  float sum = 0.0f;
  if (c < C) {
    for (int row = threadIdx.y; row < count; row += 8) sum += partials[(long long)row * C + c];
  }
  parts[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || c >= C) return;
  for (int i = 1; i < 8; i++) sum += parts[i][threadIdx.x];
  put(out + c, sum);
}
