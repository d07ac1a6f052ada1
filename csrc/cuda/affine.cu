// affine_fit and affine_apply on CUDA: local affine models, and one pass over an image of any size
// that applies them.
#include <algorithm>
#include <type_traits>

#include "../affine.h"
#include "../gram.h"
#include "kernels.h"

namespace fastfcs::cuda {
namespace {

constexpr int kBlock = 256;  // threads, along a row
constexpr int kRows = 8;     // per thread of `affine_kernel`, so that rows of models are read rarely

// The pixels of a window around `at`, without those beyond the border.
struct Window {
  int first, last;
  __device__ Window(int at, int radius, int size)
      : first(at > radius ? at - radius : 0), last(min(at + radius + 1, size)) {}
  __device__ int count() const { return last - first; }
};

// A thread's pixel: a block has a part of a row of one image.
struct Pixel {
  int64_t batch;
  int y, x;

  __device__ Pixel(int height, int width) {
    const unsigned parts = (width + kBlock - 1) / kBlock, row = blockIdx.x / parts;
    batch = row / height;
    y = static_cast<int>(row % height);
    x = static_cast<int>(blockIdx.x % parts * kBlock + threadIdx.x);
  }
};

// The model of the window around each pixel. Colours are taken relative to the middle pixel:
// differences of neighbours lose no digits.
template <typename T>
__global__ void __launch_bounds__(kBlock)
    window_kernel(const T* __restrict__ guide, const T* __restrict__ signal,
                  T* __restrict__ windows, int height, int width, int radius, T eps) {
  const Pixel at(height, width);
  if (at.x >= width) return;
  const int64_t plane = static_cast<int64_t>(height) * width, middle = at.y * int64_t(width) + at.x;
  const T *const i = guide + at.batch * 3 * plane, *const p = signal + at.batch * 3 * plane;
  T colour[3], value[3], mean[kMoments] = {}, model[kModel];
  FASTFCS_UNROLL
  for (int c = 0; c < 3; ++c) {
    colour[c] = i[c * plane + middle];
    value[c] = p[c * plane + middle];
  }
  const Window rows(at.y, radius, height), columns(at.x, radius, width);
  for (int y = rows.first; y < rows.last; ++y)
    for (int x = columns.first; x < columns.last; ++x) {
      const int64_t pixel = y * int64_t(width) + x;
      T di[3], dp[3];
      FASTFCS_UNROLL
      for (int c = 0; c < 3; ++c) {
        di[c] = i[c * plane + pixel] - colour[c];
        dp[c] = p[c * plane + pixel] - value[c];
      }
      for_each_moment(di, dp, [&](int k, T moment) { mean[k] += moment; });
    }
  const T share = T(1) / static_cast<T>(rows.count() * columns.count());
  FASTFCS_UNROLL
  for (int k = 0; k < kMoments; ++k) mean[k] *= share;
  fit_model(mean, eps, model);
  T* const to = windows + at.batch * kModel * plane + middle;
  FASTFCS_UNROLL
  for (int c = 0; c < 3; ++c) {
    T* const m = model + 4 * c;
    m[3] += value[c] - (m[0] * colour[0] + m[1] * colour[1] + m[2] * colour[2]);
    FASTFCS_UNROLL
    for (int k = 0; k < 4; ++k) to[(4 * c + k) * plane] = m[k];
  }
}

// The mean of the models of the windows that contain a pixel.
template <typename T>
__global__ void __launch_bounds__(kBlock)
    model_kernel(const T* __restrict__ windows, T* __restrict__ models, int height, int width,
                 int radius) {
  const Pixel at(height, width);
  if (at.x >= width) return;
  const int64_t plane = static_cast<int64_t>(height) * width;
  const T* const from = windows + at.batch * kModel * plane;
  T sum[kModel] = {};
  const Window rows(at.y, radius, height), columns(at.x, radius, width);
  for (int y = rows.first; y < rows.last; ++y)
    for (int x = columns.first; x < columns.last; ++x)
      FASTFCS_UNROLL
      for (int k = 0; k < kModel; ++k) sum[k] += from[k * plane + y * int64_t(width) + x];
  const T share = T(1) / static_cast<T>(rows.count() * columns.count());
  T* const to = models + at.batch * kModel * plane + at.y * int64_t(width) + at.x;
  FASTFCS_UNROLL
  for (int k = 0; k < kModel; ++k) to[k * plane] = share * sum[k];
}

// Bends a sample away from 0 where it lies below a quarter of the content's.
__device__ float lifted(float v, float content, float tiny) {
  const float m = kToe * content;
  if (v >= m) return v;
  return fmaxf(v, m * expf(v / fmaxf(m, tiny) - 1));
}

// A result as a sample: floats are not bounded.
template <typename T, typename A>
__device__ T sample(A value, A content, A most) {
  if constexpr (std::is_same<T, A>::value) {
    return value;
  } else {
    const A tiny = 1e-6f * most;
    const A low = lifted(value, content, tiny);
    return static_cast<T>(most - lifted(most - low, most - content, tiny) + 0.5f);
  }
}

template <typename T, typename A>
__global__ void __launch_bounds__(kBlock)
    affine_kernel(const T* __restrict__ image, const A* __restrict__ models, T* __restrict__ out,
                 ImageShape shape, int rows, int columns) {
  constexpr A most = std::is_same<T, A>::value ? A(1) : A(T(-1));  // models are for [0, 1]
  const int groups = (shape.height + kRows - 1) / kRows;
  const Pixel at(groups, shape.width);
  const int first = at.y * kRows, count = min(kRows, shape.height - first);
  Between* const between_rows = shared_memory<Between>();
  if (static_cast<int>(threadIdx.x) < count)
    between_rows[threadIdx.x] = between(first + threadIdx.x, rows, shape.height);
  __syncthreads();
  if (at.x >= shape.width) return;
  const Between column = between(at.x, columns, shape.width);
  const A weight = static_cast<A>(column.weight);
  const int64_t plane = static_cast<int64_t>(rows) * columns;
  const A* const from = models + at.batch * kModel * plane;
  const auto enlarged = [&](int k, int64_t row) {
    const A* const m = from + k * plane + row * columns;
    return m[column.first] + weight * (m[column.second] - m[column.first]);
  };
  A upper[kModel], step[kModel];
  int64_t read = -1;
  for (int r = 0; r < count; ++r) {
    const Between row = between_rows[r];
    if (row.first != read) {
      read = row.first;
      FASTFCS_UNROLL
      for (int k = 0; k < kModel; ++k) {
        upper[k] = enlarged(k, row.first);
        step[k] = enlarged(k, row.second) - upper[k];
      }
    }
    const A t = static_cast<A>(row.weight);
    const int64_t pixel = (first + r) * int64_t(shape.width) + at.x;
    const int64_t start =
        at.batch * 3 * shape.height * int64_t(shape.width) + pixel * shape.pixel();
    A colour[3];
    FASTFCS_UNROLL
    for (int c = 0; c < 3; ++c) colour[c] = static_cast<A>(image[start + c * shape.channel()]);
    FASTFCS_UNROLL
    for (int c = 0; c < 3; ++c) {
      const auto model = [&](int k) { return upper[4 * c + k] + t * step[4 * c + k]; };
      const A value =
          most * model(3) + model(0) * colour[0] + model(1) * colour[1] + model(2) * colour[2];
      out[start + c * shape.channel()] = sample<T>(value, colour[c], most);
    }
  }
}

int64_t blocks_of(int64_t batch, int64_t rows, int width) {
  return batch * rows * ((width + kBlock - 1) / kBlock);
}

}  // namespace

template <typename T>
void affine_fit(const T* guide, const T* signal, T* windows, T* models, MattingShape shape,
                int64_t radius, double eps, Stream stream) {
  const int r = static_cast<int>(std::min<int64_t>(radius, std::max(shape.height, shape.width)));
  const int64_t blocks = blocks_of(shape.batch, shape.height, shape.width);
  if (blocks == 0) return;
  launch("window_kernel", window_kernel<T>, blocks, kBlock, 0, stream, guide, signal, windows,
         shape.height, shape.width, r, static_cast<T>(eps));
  launch("model_kernel", model_kernel<T>, blocks, kBlock, 0, stream, windows, models, shape.height,
         shape.width, r);
}

template <typename T, typename A>
void affine_apply(const T* image, const A* models, T* out, ImageShape shape, int rows, int columns,
                  Stream stream) {
  const int64_t groups = (shape.height + kRows - 1) / kRows;
  const int64_t blocks = blocks_of(shape.batch, groups, shape.width);
  if (blocks == 0) return;
  launch("affine_kernel", affine_kernel<T, A>, blocks, kBlock, kRows * sizeof(Between), stream,
         image, models, out, shape, rows, columns);
}

#define INSTANTIATE_FIT(T)                                                                     \
  template void affine_fit(const T*, const T*, T*, T*, MattingShape, int64_t, double, Stream);
INSTANTIATE_FIT(float)
INSTANTIATE_FIT(double)

#define INSTANTIATE_APPLY(T, A) \
  template void affine_apply(const T*, const A*, T*, ImageShape, int, int, Stream);
INSTANTIATE_APPLY(uint8_t, float)
INSTANTIATE_APPLY(uint16_t, float)
INSTANTIATE_APPLY(float, float)
INSTANTIATE_APPLY(double, double)

}  // namespace fastfcs::cuda
