// Shared by all kernels: numbers in memory and in registers, vectors of 16 bytes, sums over a warp and over a
// block.
//
// A text is compiled twice: with Storage = float, and with BFLOAT16 defined for Storage = bfloat16. Arithmetic is
// float32 in both: a number is converted when it is loaded and rounded when it is stored. `_kernel.py` puts this
// file in place of the line that includes it, so that a text needs no folder to be found in.

#ifdef BFLOAT16
#include <cuda_bf16.h>
typedef __nv_bfloat16 Storage;
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void put(__nv_bfloat16* place, float x) { *place = __float2bfloat16(x); }
#else
typedef float Storage;
#endif
__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bool x) { return x ? 1.0f : 0.0f; }
__device__ __forceinline__ void put(float* place, float x) { *place = x; }
__device__ __forceinline__ void put(bool* place, float x) { *place = x != 0.0f; }

#define ALL_LANES 0xffffffffu
#define PER_VECTOR (16 / (int)sizeof(Storage))  // numbers that one instruction loads: 4 floats, or 8 of bfloat16
#define MINUS_INFINITY __uint_as_float(0xff800000u)

// N numbers side by side, which are loaded and stored at once. Their address is a multiple of their size: a kernel is
// told with `vector` that all rows of all its arrays begin at such an address, and runs with N = 1 otherwise.
template <class T, int N>
struct alignas(N * sizeof(T)) Vector {
  T of[N];
};

template <int N, class T>
__device__ __forceinline__ void load(const T* from, float (&x)[N]) {
  Vector<T, N> vector = *reinterpret_cast<const Vector<T, N>*>(from);
  for (int i = 0; i < N; i++) x[i] = to_float(vector.of[i]);
}

template <int N, class T>
__device__ __forceinline__ void store(T* to, const float (&x)[N]) {
  Vector<T, N> vector;
  for (int i = 0; i < N; i++) put(&vector.of[i], x[i]);
  *reinterpret_cast<Vector<T, N>*>(to) = vector;
}

// The same of a flat array, whose last numbers may be fewer than N.
template <int N, class T>
__device__ __forceinline__ void load_some(const T* from, long long start, long long size, float (&x)[N]) {
  if (start + N <= size) {
    load<N>(from + start, x);
  } else {
    for (int i = 0; i < N; i++) x[i] = start + i < size ? to_float(from[start + i]) : 0.0f;
  }
}

template <int N, class T>
__device__ __forceinline__ void store_some(T* to, long long start, long long size, const float (&x)[N]) {
  if (start + N <= size) {
    store<N>(to + start, x);
  } else {
    for (int i = 0; i < N && start + i < size; i++) put(to + start + i, x[i]);
  }
}

// The sum over the lanes of a warp, which all of them get: after five exchanges each holds the sum of all.
template <class T>
__device__ __forceinline__ T warp_sum(T x) {
  for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(ALL_LANES, x, lanes);
  return x;
}

// The sum over the threads of a block, whole warps, which all of them get. parts: 32 numbers of shared memory,
// which no other call uses.
template <class T>
__device__ __forceinline__ T block_sum(T x, T* parts) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  x = warp_sum(x);
  if (lane == 0) parts[warp] = x;
  __syncthreads();
  return warp_sum(lane < blockDim.x / 32 ? parts[lane] : (T)0);
}

// What softmax needs of a row, from one reading of it: the highest number, and the sum of exp(x - highest). When a
// higher number comes, the sum so far is multiplied by exp(old highest - new highest).
//
// A row of nothing but -inf has a sum of 0: -inf - (-inf) would be NaN, so such numbers are measured from 0.
struct Online {
  float top, total;
};

__device__ __forceinline__ float measured_from(float top) { return top == MINUS_INFINITY ? 0.0f : top; }

template <int N>
__device__ __forceinline__ void add(Online& online, const float (&x)[N]) {
  float top = online.top;
  for (int i = 0; i < N; i++) top = fmaxf(top, x[i]);
  float shift = measured_from(top), total = online.total * expf(online.top - shift);
  for (int i = 0; i < N; i++) total += expf(x[i] - shift);
  online.top = top;
  online.total = total;
}

__device__ __forceinline__ Online merged(Online a, Online b) {
  float top = fmaxf(a.top, b.top), shift = measured_from(top);
  return {top, a.total * expf(a.top - shift) + b.total * expf(b.top - shift)};
}

__device__ __forceinline__ Online warp_merged(Online x) {
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    Online other = {__shfl_xor_sync(ALL_LANES, x.top, lanes), __shfl_xor_sync(ALL_LANES, x.total, lanes)};
    x = merged(x, other);
  }
  return x;
}

// parts: as above.
__device__ __forceinline__ Online block_merged(Online x, Online* parts) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  x = warp_merged(x);
  if (lane == 0) parts[warp] = x;
  __syncthreads();
  Online none = {MINUS_INFINITY, 0.0f};
  return warp_merged(lane < blockDim.x / 32 ? parts[lane] : none);
}
