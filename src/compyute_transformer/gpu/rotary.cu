// Rotary position: pairs of columns are turned by the angle of their position.
//
// A thread has N pairs that lie side by side: N columns of each half of a head, or 2N columns where pairs are
// interleaved. It reads both members of its pairs before it writes, so that y may be x: queries and keys are turned
// where they lie in the packed product they come from. The strides say where the row of (batch, head, time) begins.
#include "common.cuh"

template <int N, bool INTERLEAVED, class T>
__device__ void turn(const Storage* x, const T* cos, const T* sin, Storage* y, int P, float sign, int i, int t) {
  int first = INTERLEAVED ? 2 * i : i, second = INTERLEAVED ? 2 * i + N : P + i;
  float c[N], s[N], z[2][N], turned[2][N];
  load<N>(cos + (long long)t * P + i, c);
  load<N>(sin + (long long)t * P + i, s);
  load<N>(x + first, z[0]);
  load<N>(x + second, z[1]);
  for (int j = 0; j < N; j++) {
    // the places of the two members of pair j among the 2N numbers
    int k = INTERLEAVED ? 2 * j : j, l = INTERLEAVED ? 2 * j + 1 : N + j;
    float a = z[k / N][k % N], b = z[l / N][l % N];
    turned[k / N][k % N] = a * c[j] - sign * b * s[j];
    turned[l / N][l % N] = b * c[j] + sign * a * s[j];
  }
  store<N>(y + first, turned[0]);
  store<N>(y + second, turned[1]);
}

template <class Table>
__device__ void turn_all(const Storage* x, const Table* cos, const Table* sin, Storage* y, int B, int H, int T, int D,
                         int P, long long x_batch, long long x_head, long long x_time, long long y_batch, long long
                         y_head, long long y_time, int interleaved, float sign, int vector) {
  int per_thread = vector ? PER_VECTOR : 1;
  int turns = P / per_thread, rest = D - 2 * P, per_row = turns + rest;
  long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x, row = thread / per_row;
  if (row >= (long long)B * H * T) return;
  int i = (int)(thread % per_row), t = (int)(row % T), h = (int)(row / T % H), b = (int)(row / T / H);
  x += b * x_batch + h * x_head + t * x_time;
  y += b * y_batch + h * y_head + t * y_time;
  if (i >= turns) {  // columns past 2P stay as they are
    y[2 * P + i - turns] = x[2 * P + i - turns];
  } else if (interleaved) {
    if (vector) {
      turn<PER_VECTOR, true>(x, cos, sin, y, P, sign, i * PER_VECTOR, t);
    } else {
      turn<1, true>(x, cos, sin, y, P, sign, i, t);
    }
  } else if (vector) {
    turn<PER_VECTOR, false>(x, cos, sin, y, P, sign, i * PER_VECTOR, t);
  } else {
    turn<1, false>(x, cos, sin, y, P, sign, i, t);
  }
}

// x, y: (B, H, T, D) by their strides, in numbers; cos, sin: (T, P). sign: 1 forward, -1 backward.
extern "C" __global__ void rotary(const Storage* x, const Storage* cos, const Storage* sin, Storage* y, int B, int H,
                                  int T, int D, int P, long long x_batch, long long x_head, long long x_time, long
                                  long y_batch, long long y_head, long long y_time, int interleaved, float sign, int
                                  vector) {
  turn_all(x, cos, sin, y, B, H, T, D, P, x_batch, x_head, x_time, y_batch, y_head, y_time, interleaved, sign, vector);
}

// The same with tables of float32, in which the angles of far positions differ.
extern "C" __global__ void rotary_by_floats(const Storage* x, const float* cos, const float* sin, Storage* y, int B,
                                            int H, int T, int D, int P, long long x_batch, long long x_head, long long
                                            x_time, long long y_batch, long long y_head, long long y_time, int
                                            interleaved, float sign, int vector) {
  turn_all(x, cos, sin, y, B, H, T, D, P, x_batch, x_head, x_time, y_batch, y_head, y_time, interleaved, sign, vector);
}
