// What a CUDA C++ text sees when g++ compiles it: the words of the language, as ordinary C++.
//
// Every thread of a block is a fiber, a function with a stack of its own. It runs until it needs the other threads (at a
// barrier, or where a warp exchanges numbers) and hands over to the scheduler in `runtime.cpp`. No two of them run at
// once, so that nothing here needs a lock.
//
// Only what stands here is there: a text that uses anything else of CUDA does not compile.
#pragma once
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

// --- words of the language -------------------------------------------------------------------------------------------

#define __global__ __attribute__((visibility("hidden")))
#define __device__ static inline
#define __forceinline__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// All shared arrays lie in one section of the library, which is filled with NaN before each block.
#define __shared__ static __attribute__((section("cuda_shared")))

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
extern "C" {
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
}
const int warpSize = 32;

struct __align__(8) float2 { float x, y; };
struct __align__(16) float4 { float x, y, z, w; };
struct __align__(8) uint2 { unsigned x, y; };
struct __align__(16) uint4 { unsigned x, y, z, w; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// --- mathematics: what is faster and less exact on a GPU is exact here ------------------------------------------------

#define __expf(x) expf(x)
#define __logf(x) logf(x)
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline float __fdividef(float x, float y) { return x / y; }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((uint64_t)a * b) >> 32); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline long long min(long long a, long long b) { return a < b ? a : b; }
static inline long long max(long long a, long long b) { return a > b ? a : b; }
template <class To, class From> static inline To cuda_bits(From from) {
  To to;
  static_assert(sizeof(to) == sizeof(from), "");
  memcpy(&to, &from, sizeof(to));
  return to;
}
static inline float __uint_as_float(unsigned x) { return cuda_bits<float>(x); }
static inline unsigned __float_as_uint(float x) { return cuda_bits<unsigned>(x); }
template <class T> static inline T __ldg(const T* p) { return *p; }

// --- threads together -------------------------------------------------------------------------------------------------

extern "C" void cuda_barrier(int line);
// Wait for the lanes of the mask, and return the value of each lane; for those outside the mask, 0.
extern "C" const uint64_t* cuda_exchange(unsigned mask, uint64_t value, int line);
extern "C" void cuda_need_lane(unsigned mask, int lane, int line);
extern "C" void* cuda_dynamic_shared();

#define __syncthreads() cuda_barrier(__LINE__)
#define __syncwarp(...) ((void)cuda_exchange(cuda_mask(__VA_ARGS__), 0, __LINE__))
#define __ballot_sync(mask, flag) cuda_ballot(mask, flag, __LINE__)
#define __shfl_sync(mask, value, lane) cuda_shuffle(mask, value, (lane) & 31, __LINE__)
#define __shfl_xor_sync(mask, value, other) cuda_shuffle(mask, value, cuda_lane() ^ (other), __LINE__)
#define __shfl_down_sync(mask, value, by) cuda_shuffle(mask, value, cuda_lane() + (int)(by), __LINE__)
#define __shfl_up_sync(mask, value, by) cuda_shuffle(mask, value, cuda_lane() - (int)(by), __LINE__)

static inline unsigned cuda_mask(unsigned mask = 0xffffffffu) { return mask; }
static inline int cuda_lane() {
  return (int)((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) & 31);
}
template <class T> static inline T cuda_shuffle(unsigned mask, T value, int lane, int line) {
  uint64_t bits = 0;
  static_assert(sizeof(T) <= 8, "a shuffle exchanges at most 8 bytes");
  memcpy(&bits, &value, sizeof(T));
  if (lane < 0 || lane > 31) lane = cuda_lane();  // as the hardware: a lane beyond the warp gives one's own value
  const uint64_t* values = cuda_exchange(mask, bits, line);
  cuda_need_lane(mask, lane, line);
  memcpy(&value, values + lane, sizeof(T));
  return value;
}
static inline unsigned cuda_ballot(unsigned mask, int flag, int line) {
  const uint64_t* values = cuda_exchange(mask, flag != 0, line);
  unsigned votes = 0;
  for (int lane = 0; lane < 32; lane++) votes |= (unsigned)values[lane] << lane;
  return votes;
}
template <class T> static inline T cuda_add(T* place, T value) {
  T before = *place;
  *place = before + value;
  return before;
}
static inline float atomicAdd(float* place, float value) { return cuda_add(place, value); }
static inline double atomicAdd(double* place, double value) { return cuda_add(place, value); }
static inline int atomicAdd(int* place, int value) { return (int)cuda_add((unsigned*)place, (unsigned)value); }
static inline unsigned atomicAdd(unsigned* place, unsigned value) { return cuda_add(place, value); }

// --- how a kernel is called: see `compile.py` -------------------------------------------------------------------------

// kind: of what a parameter is or points to: f float, i integer, b bfloat16, s another structure. size: its bytes.
struct CudaParameter { char is_pointer, kind; short size; };
template <class T> struct CudaKind { static const char kind = __is_class(T) ? (sizeof(T) == 2 ? 'b' : 's') : 'i'; };
template <> struct CudaKind<float> { static const char kind = 'f'; };
template <> struct CudaKind<double> { static const char kind = 'f'; };
template <class T> struct CudaDescribe {
  static constexpr CudaParameter value = {0, CudaKind<T>::kind, (short)sizeof(T)};
};
template <class T> struct CudaDescribe<T*> {
  static constexpr CudaParameter value = {1, CudaKind<T>::kind, (short)sizeof(T)};
};
template <class T> struct CudaDescribe<const T*> : CudaDescribe<T*> {};
template <class T> struct CudaDescribe<T* __restrict__> : CudaDescribe<T*> {};
template <class T> struct CudaDescribe<const T* __restrict__> : CudaDescribe<T*> {};

template <int... I> struct CudaIndices {};
template <int N, int... I> struct CudaCount : CudaCount<N - 1, N - 1, I...> {};
template <int... I> struct CudaCount<0, I...> { typedef CudaIndices<I...> type; };
template <class... P, int... I> void cuda_unpack(void (*kernel)(P...), void** args, CudaIndices<I...>) {
  kernel(*(P*)args[I]...);
}
template <class... P> void cuda_call(void (*kernel)(P...), void** args) {
  cuda_unpack(kernel, args, typename CudaCount<sizeof...(P)>::type());
}
template <class... P> int cuda_describe(void (*)(P...), CudaParameter* out) {
  const CudaParameter found[] = {CudaDescribe<P>::value...};
  for (unsigned i = 0; i < sizeof...(P); i++) out[i] = found[i];
  return sizeof...(P);
}
extern "C" char __start_cuda_shared[] __attribute__((weak)), __stop_cuda_shared[] __attribute__((weak));
extern "C" char* cuda_shared_start() { return __start_cuda_shared; }
extern "C" char* cuda_shared_stop() { return __stop_cuda_shared; }
#define CUDA_KERNEL(NAME) \
  extern "C" void cuda_call_##NAME(void** args) { cuda_call(NAME, args); } \
  extern "C" int cuda_describe_##NAME(CudaParameter* out) { return cuda_describe(NAME, out); }
