// Attention of one further token of each row to the keys and values of a cache, whose length is read on the device: a
// captured graph runs it at every position.
//
// The token's own key and value come from the packed projection and are added to the cache along the way. A block has
// one head of one row, and one of `parts` equal parts of the positions that the head attends to, so that a single text
// keeps all multiprocessors busy. Each warp takes STEP positions at a time, N columns a lane, and keeps the highest
// score, the sum of the weights and the weighted sum of the values so far (an online softmax). The warps are merged in
// shared memory; the parts, where there are several, by a second kernel.
#include "common.cuh"

#define WARPS 8
#define STEP 4
#define WIDEST 256

// A column of a query or a key, turned by the angles of its position; P is 0 where nothing is turned.
__device__ __forceinline__ float turned(const Storage* x, const Storage* cos, const Storage* sin, int P, int c) {
  float a = to_float(x[c]);
  if (c >= 2 * P) return a;
  if (c < P) return a * to_float(cos[c]) - to_float(x[c + P]) * to_float(sin[c]);
  return a * to_float(cos[c - P]) + to_float(x[c - P]) * to_float(sin[c - P]);
}

// What a warp knows of the positions it took: `sum` are the values of the columns of a lane, weighted.
template <int N>
struct Reading {
  float top, total, sum[N];
};

// Take up to STEP positions from `s` on into a reading; none from `end` on.
template <int N>
__device__ __forceinline__ void take(Reading<N>& reading, const float* query, const Storage* keys,
                                     const Storage* values, int s, int end, int D) {
  int c = threadIdx.x % 32 * N;
  bool reads = c < D;
  float k[STEP][N], v[STEP][N], score[STEP], top = reading.top;
  for (int j = 0; j < STEP; j++) {
    score[j] = 0.0f;
    for (int i = 0; i < N; i++) k[j][i] = v[j][i] = 0.0f;
    if (reads && s + j < end) {
      load<N>(keys + (long long)(s + j) * D + c, k[j]);
      load<N>(values + (long long)(s + j) * D + c, v[j]);
      for (int i = 0; i < N; i++) score[j] += query[c + i] * k[j][i];
    }
  }
  for (int j = 0; j < STEP; j++) {
    score[j] = s + j < end ? warp_sum(score[j]) : MINUS_INFINITY;
    top = fmaxf(top, score[j]);
  }
  float shift = measured_from(top), before = expf(reading.top - shift);
  reading.total *= before;
  for (int i = 0; i < N; i++) reading.sum[i] *= before;
  for (int j = 0; j < STEP; j++) {
    float weight = expf(score[j] - shift);
    reading.total += weight;
    for (int i = 0; i < N; i++) reading.sum[i] += weight * v[j][i];
  }
  reading.top = top;
}

struct Shared {
  float query[WIDEST], own[2][WIDEST], sums[WARPS][WIDEST], tops[WARPS], totals[WARPS];
};

// y: one row of D numbers for a block where there is one part, else one of D + 2 of `partials`: the weighted sum of
// the values, the highest score and the sum of the weights.
template <int N>
__device__ void attend(Shared& shared, const Storage* packed, Storage* keys, Storage* values, const int* length,
                       const int* padding, const Storage* cos, const Storage* sin, float* partials, Storage* y, int K,
                       int D, int P, int capacity, int window, float scale) {
  int H = gridDim.x, h = blockIdx.x, b = blockIdx.y, part = blockIdx.z, parts = gridDim.z;
  int group = H / K, shared_head = h / group, position = *length;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  packed += (long long)b * (H + 2 * K) * D;
  keys += ((long long)b * K + shared_head) * capacity * D;
  values += ((long long)b * K + shared_head) * capacity * D;
  cos += (long long)position * P;
  sin += (long long)position * P;
  bool appends = part == 0 && h % group == 0;  // no other block reads what it writes: it has the own key itself
  for (int c = threadIdx.x; c < D; c += blockDim.x) {
    shared.query[c] = turned(packed + h * D, cos, sin, P, c) * scale;
    shared.own[0][c] = turned(packed + (H + shared_head) * D, cos, sin, P, c);
    shared.own[1][c] = to_float(packed[(H + K + shared_head) * D + c]);
    if (appends) {
      put(keys + (long long)position * D + c, shared.own[0][c]);
      put(values + (long long)position * D + c, shared.own[1][c]);
    }
  }
  __syncthreads();

  int first = padding[b];
  if (window > 0) first = max(first, position + 1 - window);
  int each = (position - first + parts - 1) / parts;
  int start = first + part * each, end = min(start + each, position);
  Reading<N> reading = {MINUS_INFINITY, 0.0f, {}};
  for (int s = start + warp * STEP; s < end; s += WARPS * STEP) take<N>(reading, shared.query, keys, values, s, end, D);
  for (int i = 0; i < N; i++) {
    if (lane * N + i < D) shared.sums[warp][lane * N + i] = reading.sum[i];
  }
  if (lane == 0) {
    shared.tops[warp] = reading.top;
    shared.totals[warp] = reading.total;
  }
  __syncthreads();

  // the token itself, which the first part takes
  float score = 0.0f, highest = MINUS_INFINITY, total = 0.0f, weight = 0.0f;
  for (int c = lane; c < D; c += 32) score += shared.query[c] * shared.own[0][c];
  score = part == 0 ? warp_sum(score) : MINUS_INFINITY;
  for (int w = 0; w < WARPS; w++) highest = fmaxf(highest, shared.tops[w]);
  highest = fmaxf(highest, score);
  float shift = measured_from(highest);
  weight = expf(score - shift);
  total = weight;
  for (int w = 0; w < WARPS; w++) total += shared.totals[w] * expf(shared.tops[w] - shift);
  long long row = ((long long)b * H + h) * parts + part;
  for (int c = threadIdx.x; c < D; c += blockDim.x) {
    float sum = weight * shared.own[1][c];
    for (int w = 0; w < WARPS; w++) sum += shared.sums[w][c] * expf(shared.tops[w] - shift);
    if (parts == 1) {
      put(y + row * D + c, sum / total);
    } else {
      partials[row * (D + 2) + c] = sum;
    }
  }
  if (parts > 1 && threadIdx.x == 0) {
    partials[row * (D + 2) + D] = highest;
    partials[row * (D + 2) + D + 1] = total;
  }
}

// packed: (B, (H + 2K) D), the queries, keys and values of the token. keys, values: (B, K, capacity, D), of which the
// first *length positions are filled, and the first padding[b] of a row hold no token. cos, sin: (capacity, P) or more
// positions. window: how many positions up to its own a token attends to, 0 for all. partials: (B, H, parts, D + 2).
// y: (B, H D). Grid: H, B, parts.
extern "C" __global__ void attend_to_cache(const Storage* packed, Storage* keys, Storage* values, const int* length,
                                           const int* padding, const Storage* cos, const Storage* sin,
                                           float* partials, Storage* y, int K, int D, int P, int capacity, int window,
                                           float scale) {
  __shared__ Shared shared;
  if (D <= 32) {
    attend<1>(shared, packed, keys, values, length, padding, cos, sin, partials, y, K, D, P, capacity, window, scale);
  } else if (D <= 64) {
    attend<2>(shared, packed, keys, values, length, padding, cos, sin, partials, y, K, D, P, capacity, window, scale);
  } else if (D <= 128) {
    attend<4>(shared, packed, keys, values, length, padding, cos, sin, partials, y, K, D, P, capacity, window, scale);
  } else {
    attend<8>(shared, packed, keys, values, length, padding, cos, sin, partials, y, K, D, P, capacity, window, scale);
  }
}

// Merge the parts of each head: the sums are measured from the highest score of all. A block has one head.
extern "C" __global__ void merge_parts(const float* partials, Storage* y, int parts, int D) {
  partials += (long long)blockIdx.x * parts * (D + 2);
  float highest = MINUS_INFINITY, total = 0.0f;
  for (int part = 0; part < parts; part++) highest = fmaxf(highest, partials[part * (D + 2) + D]);
  float shift = measured_from(highest);
  for (int part = 0; part < parts; part++) {
    total += partials[part * (D + 2) + D + 1] * expf(partials[part * (D + 2) + D] - shift);
  }
  for (int c = threadIdx.x; c < D; c += blockDim.x) {
    float sum = 0.0f;
    for (int part = 0; part < parts; part++) {
      sum += partials[part * (D + 2) + c] * expf(partials[part * (D + 2) + D] - shift);
    }
    put(y + (long long)blockIdx.x * D + c, sum / total);
  }
}
