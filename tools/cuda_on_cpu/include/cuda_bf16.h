// The part of NVIDIA's cuda_bf16.h that the kernels use: bfloat16, the upper half of a float32, under its names.
#pragma once
#include "cuda_on_cpu.h"

struct __nv_bfloat16 { unsigned short bits; };

static inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float((unsigned)x.bits << 16); }

// Round to the nearest, of two equally near to the even one.
static inline __nv_bfloat16 __float2bfloat16(float x) {
  unsigned bits = __float_as_uint(x);
  if (x != x) return {0x7fff};
  return {(unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}
static inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __float2bfloat16(x); }
