// Embedding: the gradients of equal ids are added without atomics, in the order of their positions.
//
// A block has a few rows of dweight (`ids_per_block` ids from blockIdx.x * ids_per_block on) and 128 columns of
// them, whose sums lie in shared memory. It looks at all N ids, 128 at a time: a thread each. Those whose id is one
// of the block's write their position into a list, in order: within a warp a ballot says which lanes found one, and
// a lane's place is the number of those before it; the counts of the four warps give the place of each warp. Then
// every thread adds the listed rows of dy in its own column. No two threads write to one place, so the result does
// not depend on what runs first.
//
// Each block reads all ids again, from the second-level cache. Sorting them first would read less, but no sort of
// CuPy's can be captured in a CUDA graph.
#include "common.cuh"

#define THREADS 128

// Dynamic shared memory: ids_per_block * THREADS floats.
extern "C" __global__ void embedding_backward(const long long* ids, const Storage* dy, Storage* dweight, int N, int V,
                                              int C, int ids_per_block) {
  extern __shared__ float sums[];
  __shared__ int positions[THREADS], rows[THREADS], counts[THREADS / 32];
  int first = blockIdx.x * ids_per_block, num_ids = min(ids_per_block, V - first);
  int c = blockIdx.y * THREADS + threadIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int i = 0; i < num_ids; i++) sums[i * THREADS + threadIdx.x] = 0.0f;
  for (int start = 0; start < N; start += THREADS) {
    int n = start + threadIdx.x;
    long long row = n < N ? ids[n] - first : -1;
    bool found = row >= 0 && row < num_ids;
    unsigned votes = __ballot_sync(ALL_LANES, found);
    if (lane == 0) counts[warp] = __popc(votes);
    __syncthreads();  // also: the list of the ids before is used up
    int place = __popc(votes & ((1u << lane) - 1u)), count = 0;
    for (int w = 0; w < THREADS / 32; w++) {
      if (w < warp) place += counts[w];
      count += counts[w];
    }
    if (found) {
      positions[place] = n;
      rows[place] = (int)row;
    }
    __syncthreads();
    if (c < C) {
      for (int i = 0; i < count; i++) {
        sums[rows[i] * THREADS + threadIdx.x] += to_float(dy[(long long)positions[i] * C + c]);
      }
    }
  }
  if (c >= C) return;
  for (int i = 0; i < num_ids; i++) put(dweight + (long long)(first + i) * C + c, sums[i * THREADS + threadIdx.x]);
}
