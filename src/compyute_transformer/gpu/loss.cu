// Loss: cross-entropy over a large vocabulary, and its gradient, written over the logits.
//
// A block has a row of V logits, 100 kB for GPT-2 in bfloat16, which it reads once for the loss: each thread keeps
// the highest number so far and the sum of exp(z - highest), and the block merges what its threads found
// (`Online`). The two are kept apart, as `ops.loss` keeps them: their logarithmic sum would lose the sum where all
// logits are large.
//
// The gradient softmax(z) - target needs the row once more, which then still lies in the second-level cache. A
// thread reads and writes the same places, so that the gradient may take the place of the logits.
//
// The number of rows that are scored stays on the device (`mean_of_scored`): nothing waits for the CPU.
#include "common.cuh"

// The row's highest logit and sum, and the sum of z - base for label smoothing. base is a number of about the size
// of the logits, so that nothing is lost when they are all large.
template <int N>
__device__ Online read_row(const Storage* row, int V, float base, float* sum) {
  Online online = {MINUS_INFINITY, 0.0f};
  float own = 0.0f;
  for (int v = threadIdx.x * N; v < V; v += blockDim.x * N) {
    float z[N];
    load<N>(row + v, z);
    add<N>(online, z);
    for (int i = 0; i < N; i++) own += z[i] - base;
  }
  *sum = own;
  return online;
}

template <int N>
__device__ void write_gradient(const Storage* row, Storage* drow, int V, long long target, float top, float log_total,
                               float smoothing, float scale) {
  float inverse = 1.0f / expf(log_total), smooth = smoothing / V;
  for (int v = threadIdx.x * N; v < V; v += blockDim.x * N) {
    float z[N];
    load<N>(row + v, z);
    for (int i = 0; i < N; i++) {
      float probability = expf(z[i] - top) * inverse;
      z[i] = (probability - smooth - (v + i == target ? 1.0f - smoothing : 0.0f)) * scale;
    }
    store<N>(drow + v, z);
  }
}

template <int N>
__device__ void write_zeros(Storage* drow, int V) {
  float zeros[N] = {};
  for (int v = threadIdx.x * N; v < V; v += blockDim.x * N) store<N>(drow + v, zeros);
}

// Write the loss, the highest logit and the logarithm of the sum of a row. All threads get the last two.
__device__ Online finish_row(const Storage* row, int V, long long target, bool scored, float base, float smoothing,
                             float* nll, float* highest, float* log_total, Online online, float sum, Online* tops,
                             float* sums) {
  float at_target = scored ? to_float(row[target]) : 0.0f;  // before the barriers: the gradient may be written over it
  online = block_merged(online, tops);
  float log_sum = logf(online.total);
  float shifted = smoothing > 0.0f ? block_sum(sum, sums) / V + (base - online.top) : 0.0f;
  if (threadIdx.x == 0) {
    nll[blockIdx.x] =
        scored ? log_sum - (1.0f - smoothing) * (at_target - online.top) - smoothing * shifted : 0.0f;
    if (highest) {
      highest[blockIdx.x] = online.top;
      log_total[blockIdx.x] = log_sum;
    }
  }
  return {online.top, log_sum};
}

__device__ float base_of(const Storage* row) {
  float first = to_float(row[0]);
  return first - first == 0.0f ? first : 0.0f;  // not of an infinite one
}

extern "C" __global__ void cross_entropy_forward(const Storage* logits, const long long* targets, long long
                                                 ignore_index, float smoothing, float* nll, float* highest, float*
                                                 log_total, int V, int vector) {
  __shared__ Online tops[32];
  __shared__ float sums[32];
  const Storage* row = logits + (long long)blockIdx.x * V;
  long long target = targets[blockIdx.x];
  float sum, base = base_of(row);
  Online online = vector ? read_row<PER_VECTOR>(row, V, base, &sum) : read_row<1>(row, V, base, &sum);
  finish_row(row, V, target, target != ignore_index, base, smoothing, nll, highest, log_total, online, sum, tops, sums);
}

// The number that all gradients are multiplied by: factor, times dloss where it is on the device, divided by the
// number of rows that are scored where that is on the device.
__device__ float scale_of(float factor, const float* dloss, const int* num_scored) {
  if (dloss) factor *= *dloss;
  return num_scored ? factor / max(*num_scored, 1) : factor;
}

extern "C" __global__ void cross_entropy_backward(const Storage* logits, const long long* targets, const float* highest,
                                                  const float* log_total, long long ignore_index, float smoothing,
                                                  float factor, const float* dloss, const int* num_scored,
                                                  Storage* dlogits, int V, int vector) {
  const Storage* row = logits + (long long)blockIdx.x * V;
  Storage* drow = dlogits + (long long)blockIdx.x * V;
  long long target = targets[blockIdx.x];
  float scale = scale_of(factor, dloss, num_scored), top = highest[blockIdx.x], log_sum = log_total[blockIdx.x];
  if (target == ignore_index) {
    vector ? write_zeros<PER_VECTOR>(drow, V) : write_zeros<1>(drow, V);
  } else if (vector) {
    write_gradient<PER_VECTOR>(row, drow, V, target, top, log_sum, smoothing, scale);
  } else {
    write_gradient<1>(row, drow, V, target, top, log_sum, smoothing, scale);
  }
}

// Both at once: the loss of each row, and the gradient in place of the logits.
extern "C" __global__ void cross_entropy_in_place(Storage* logits, const long long* targets, long long ignore_index,
                                                  float smoothing, float factor, const float* dloss,
                                                  const int* num_scored, float* nll, int V, int vector) {
  __shared__ Online tops[32];
  __shared__ float sums[32];
  Storage* row = logits + (long long)blockIdx.x * V;
  long long target = targets[blockIdx.x];
  bool scored = target != ignore_index;
  float sum, base = base_of(row), scale = scale_of(factor, dloss, num_scored);
  Online online = vector ? read_row<PER_VECTOR>(row, V, base, &sum) : read_row<1>(row, V, base, &sum);
  online = finish_row(row, V, target, scored, base, smoothing, nll, nullptr, nullptr, online, sum, tops, sums);
  if (!scored) {
    vector ? write_zeros<PER_VECTOR>(row, V) : write_zeros<1>(row, V);
  } else if (vector) {
    write_gradient<PER_VECTOR>(row, row, V, target, online.top, online.total, smoothing, scale);
  } else {
    write_gradient<1>(row, row, V, target, online.top, online.total, smoothing, scale);
  }
}

// The number of scored rows, and with nll their mean loss, by one block.
extern "C" __global__ void mean_of_scored(const float* nll, const long long* targets, long long ignore_index, int rows,
                                          float* loss, int* num_scored) {
  __shared__ float sums[32];
  __shared__ int counts[32];
  float sum = 0.0f;
  int count = 0;
  for (int row = threadIdx.x; row < rows; row += blockDim.x) {
    if (nll) sum += nll[row];
    count += targets[row] != ignore_index;
  }
  sum = block_sum(sum, sums);
  count = block_sum(count, counts);
  if (threadIdx.x > 0) return;
  if (nll) *loss = sum / max(count, 1);
  *num_scored = count;
}
