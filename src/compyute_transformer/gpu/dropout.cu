// Dropout: the random bits are made in registers and used up there; no mask is ever stored.
//
// The bits are those of `random.py`, Philox 4x32-10, so that a GPU drops what a CPU drops: one call of the
// generator gives four numbers, for columns 4q to 4q + 3 of a row, from the counter (q, row, offset, stream * 2^16
// + head). A thread makes one such call and handles four columns. Forward and backward are the same kernel.
//
// advance: where it is given, a number on the device that is added to the offset. A captured CUDA graph runs with
// the arguments it was captured with; by counting this number up, each replay drops other elements.
#include "common.cuh"

struct Words {
  unsigned of[4];
};

__device__ __forceinline__ Words philox(unsigned c0, unsigned c1, unsigned c2, unsigned c3, unsigned k0, unsigned k1) {
  for (int round = 0; round < 10; round++) {
    unsigned long long product0 = 0xD2511F53ull * c0, product1 = 0xCD9E8D57ull * c2;
    unsigned high0 = (unsigned)(product0 >> 32), high1 = (unsigned)(product1 >> 32);
    c0 = high1 ^ c1 ^ k0;
    c2 = high0 ^ c3 ^ k1;
    c1 = (unsigned)product1;
    c3 = (unsigned)product0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// x and y are rows of C columns. Row n is row (n / (heads * per_head)) * per_head + n % per_head of head
// n / per_head % heads: attention weights (B, H, T, S) are drawn head by head, with per_head = T.
extern "C" __global__ void keep_and_scale(const Storage* x, Storage* y, long long rows, int C, int heads, int per_head,
                                          unsigned threshold, float scale, unsigned seed_low, unsigned seed_high,
                                          unsigned offset, unsigned stream_head, const unsigned* advance, int vector) {
  int quads = (C + 3) / 4;
  long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (thread >= rows * quads) return;
  long long n = thread / quads;
  int quad = (int)(thread % quads), count = min(4, C - 4 * quad);
  unsigned head = (unsigned)(n / per_head % heads);
  unsigned row = (unsigned)(n / ((long long)heads * per_head) * per_head + n % per_head);
  if (advance) offset += *advance;
  Words bits = philox((unsigned)quad, row, offset, stream_head + head, seed_low, seed_high);
  long long start = n * C + 4 * quad;
  float a[4];
  if (vector) {
    load<4>(x + start, a);
  } else {
    for (int i = 0; i < 4; i++) a[i] = i < count ? to_float(x[start + i]) : 0.0f;
  }
  for (int i = 0; i < 4; i++) a[i] = bits.of[i] >= threshold ? a[i] * scale : 0.0f;
  if (vector) {
    store<4>(y + start, a);
  } else {
    for (int i = 0; i < count; i++) put(y + start + i, a[i]);
  }
}
