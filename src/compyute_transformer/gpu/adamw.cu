// AdamW and clipping over the flat buffers: one sweep over weight, gradient and both moments, bound by memory.
//
// `adamw_update` takes the numbers of a step as arguments. A captured CUDA graph cannot: there, `prepare_step`
// counts the step on the device, adds up the squares of the gradient, and writes what the sweep `adamw_step` needs
// to `now`: nothing waits for the CPU. That sweep also clips, and knows which parts of the buffer decay.
#include "common.cuh"

#define STEP_RATE 0  // what `now` holds: learning rate / (1 - beta1^t)
#define SIZE_SCALE 1  // 1 / sqrt(1 - beta2^t)
#define LEARNING_RATE 2
#define CLIP 3  // what the gradient is multiplied by
#define IS_TAKEN 4  // 0 where loss or gradient are not finite: nothing is changed then

struct Rates {
  float step_rate, size_scale, beta1, rest1, beta2, rest2, eps;
};

template <int N>
__device__ void update_part(float* weight, const float* gradient, float* first, float* second, long long start, long
                            long size, Rates rates, const float (&shrink)[N], float clip) {
  float w[N], g[N], m[N], v[N];
  load_some<N>(weight, start, size, w);
  load_some<N>(gradient, start, size, g);
  load_some<N>(first, start, size, m);
  load_some<N>(second, start, size, v);
  for (int i = 0; i < N; i++) {
    g[i] *= clip;
    m[i] = rates.beta1 * m[i] + rates.rest1 * g[i];
    v[i] = rates.beta2 * v[i] + rates.rest2 * g[i] * g[i];
    w[i] = w[i] * shrink[i] - rates.step_rate * m[i] / (sqrtf(v[i]) * rates.size_scale + rates.eps);
  }
  store_some<N>(weight, start, size, w);
  store_some<N>(first, start, size, m);
  store_some<N>(second, start, size, v);
}

template <int N>
__device__ void update_evenly(float* weight, const float* gradient, float* first, float* second, long long size, Rates
                              rates, float shrink) {
  long long start = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * N;
  float shrinks[N];
  for (int i = 0; i < N; i++) shrinks[i] = shrink;
  if (start < size) update_part<N>(weight, gradient, first, second, start, size, rates, shrinks, 1.0f);
}

extern "C" __global__ void adamw_update(float* weight, const float* gradient, float* first, float* second, long long
                                        size, float step_rate, float size_scale, float beta1, float rest1, float
                                        beta2, float rest2, float eps, float shrink, int vector) {
  Rates rates = {step_rate, size_scale, beta1, rest1, beta2, rest2, eps};
  if (vector) {
    update_evenly<4>(weight, gradient, first, second, size, rates, shrink);
  } else {
    update_evenly<1>(weight, gradient, first, second, size, rates, shrink);
  }
}

template <int N>
__device__ void update_by_segments(float* weight, const float* gradient, float* first, float* second, const long long*
                                   ends, const float* decays, int segments, long long size, Rates rates, const float*
                                   now) {
  long long start = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * N;
  if (start >= size || now[IS_TAKEN] == 0.0f) return;
  int segment = 0;
  for (int high = segments - 1; segment < high;) {  // the first that ends behind start, by halving
    int middle = (segment + high) / 2;
    if (start < ends[middle]) {
      high = middle;
    } else {
      segment = middle + 1;
    }
  }
  float shrinks[N];
  for (int i = 0; i < N; i++) {
    while (segment < segments - 1 && start + i >= ends[segment]) segment++;
    shrinks[i] = 1.0f - now[LEARNING_RATE] * decays[segment];
  }
  update_part<N>(weight, gradient, first, second, start, size, rates, shrinks, now[CLIP]);
}

// ends: where each segment of the buffer ends, ascending, the last at its size; decays: the weight decay of each.
extern "C" __global__ void adamw_step(float* weight, const float* gradient, float* first, float* second, const long
                                      long* ends, const float* decays, int segments, long long size, const float* now,
                                      float beta1, float rest1, float beta2, float rest2, float eps, int vector) {
  Rates rates = {now[STEP_RATE], now[SIZE_SCALE], beta1, rest1, beta2, rest2, eps};
  if (vector) {
    update_by_segments<4>(weight, gradient, first, second, ends, decays, segments, size, rates, now);
  } else {
    update_by_segments<1>(weight, gradient, first, second, ends, decays, segments, size, rates, now);
  }
}

// The sum of the squares of each block's part of the gradient, in float64: what overflows in float32 does not there.
extern "C" __global__ void squares_of_parts(const float* gradient, long long size, double* squares) {
  __shared__ double parts[32];
  double sum = 0.0;
  long long step = (long long)gridDim.x * blockDim.x;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += step) {
    sum += (double)gradient[i] * gradient[i];
  }
  sum = block_sum(sum, parts);
  if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}

// One block: count the step, and write the numbers of it. A step whose loss, where one is given, or whose gradient is
// not finite is not counted and changes nothing: the weights that led to it are still there when the CPU hears of it.
extern "C" __global__ void prepare_step(const double* squares, int count, float max_norm, const float* learning_rate,
                                        double beta1, double beta2, const float* loss, int* step, double* norm,
                                        float* now) {
  __shared__ double parts[32];
  double sum = 0.0;
  for (int i = threadIdx.x; i < count; i += blockDim.x) sum += squares[i];
  sum = block_sum(sum, parts);
  if (threadIdx.x > 0) return;
  double length = sqrt(sum);
  *norm = length;
  bool finite = length - length == 0.0 && (!loss || *loss - *loss == 0.0f);
  now[IS_TAKEN] = finite ? 1.0f : 0.0f;
  if (!finite) return;
  int t = *step + 1;
  *step = t;
  now[STEP_RATE] = (float)(*learning_rate / (1.0 - pow(beta1, (double)t)));
  now[SIZE_SCALE] = (float)(1.0 / sqrt(1.0 - pow(beta2, (double)t)));
  now[LEARNING_RATE] = *learning_rate;
  now[CLIP] = max_norm > 0.0f && length > max_norm ? (float)(max_norm / length) : 1.0f;
}
