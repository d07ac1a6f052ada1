// The matting Laplacian on CUDA: its factors, and one fused kernel for both the product L v and a
// step of a filter. The arithmetic per window and per pixel is that of matting.h, as on the CPU.
#include "../matting.h"

#include <algorithm>
#include <cmath>

#include "kernels.h"

namespace fastfcs::cuda {
namespace {

constexpr int kThreads = 256;

// One thread per window, once per image. The arithmetic is float64 for every T: rounding earlier
// would make the filter inaccurate. Traffic per pixel, float32: 12 bytes read (the caches serve the
// nine-fold reuse), 24 bytes written.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    factors_kernel(const T* __restrict__ image,  // [B, 3, H, W]
                   T* __restrict__ factors,      // [B, kFactors, H-2, W-2]
                   MattingShape shape, double eps) {
  const int width = shape.width - 2;
  const int64_t windows = int64_t{shape.height - 2} * width;
  const int64_t plane = int64_t{shape.height} * shape.width;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= shape.batch * windows) return;
  const int64_t b = i / windows, w = i % windows;
  const T* corner = image + b * 3 * plane + w / width * shape.width + w % width;
  double pixels[3][kWindow];
  FASTFCS_UNROLL
  for (int c = 0; c < 3; ++c) {
    FASTFCS_UNROLL
    for (int j = 0; j < kWindow; ++j)
      pixels[c][j] = corner[c * plane + j / 3 * shape.width + j % 3];
  }
  double result[kFactors];
  window_factors(pixels, eps, result);
  FASTFCS_UNROLL
  for (int k = 0; k < kFactors; ++k)
    factors[(b * kFactors + k) * windows + w] = static_cast<T>(result[k]);
}

// Every kind of step is a linear combination, out = laplacian (L v) + current v + before previous,
// so that one kernel serves them all.
template <typename T>
struct StepWeights {
  T laplacian, current, before;
};

template <typename T>
StepWeights<T> step_weights(StepKind kind) {
  switch (kind) {
    case StepKind::laplacian: return {1, 0, 0};
    case StepKind::chebyshev_first: return {chebyshev_first<T>(1, 0), chebyshev_first<T>(0, 1), 0};
    default:
      return {chebyshev_next<T>(1, 0, 0), chebyshev_next<T>(0, 1, 0), chebyshev_next<T>(0, 0, 1)};
  }
}

constexpr int kLanes = 32;
constexpr unsigned kAllLanes = 0xffffffff;
// Pixel columns that a warp writes. Their windows extend two columns further on either side.
constexpr int kColumns = kLanes - 4;

// Two choices that the performance model suggests; -D options of the compiler change them, so that
// measurements on a GPU can confirm them.
#ifndef FASTFCS_MATTING_WARPS
#define FASTFCS_MATTING_WARPS 2
#endif
#ifndef FASTFCS_MATTING_STRIP
#define FASTFCS_MATTING_STRIP 1800
#endif
// Warps per block. They work on neighbouring strips, which share columns in the L1 cache.
constexpr int kWarps = FASTFCS_MATTING_WARPS;
constexpr int kResident = 12;  // warps per multiprocessor, of up to 168 registers

// A warp marches down a strip of the image, one row per iteration and one column per lane. A lane
// is responsible for pixel column x and for the windows whose left column is x. Pixel (x, y) lies
// in the windows whose top left pixels are in rows y-2..y and columns x-2..x. Iteration y:
//
//   1  Receives pixel row y+2 of image and v, columns x..x+2: the lane's own column, and two that
//      are shuffled from the lanes above.
//   2  Issues loads: pixel row y+3 for the next iteration, previous and sum for the end of this
//      one, factors of row y+1 for the next. In this order the compiler keeps them furthest ahead
//      of their use.
//   3  Computes a_w, b_w of the lane's window for every channel, and their sums with the two rows
//      above.
//   4  Evaluates the summed models at pixels x..x+2 of row y and shuffles two of the values to the
//      lanes above. Their sum gives (L v)(x, y).
//   5  Applies the recurrence, updates the sum and writes both, coalesced.
//
// The values of earlier rows stay in registers: no shared memory, no barrier. The loop is unrolled
// three times, so that rows change their role and not their registers. It contains no branch,
// because the compiler would not move the loads of the next iteration ahead of one. Out-of-image
// lanes and rows are clamped to the border for loads and contribute zero. The order of a pixel's
// arithmetic does not depend on how the image is cut into strips.
//
// Traffic per pixel, float32, C = 3: image 12, factors 24, v 12, previous 12 and out 12 make 72
// bytes. The sum takes 24 more in one step of three: 80 bytes on average. Neighbouring strips share
// 4 rows of pixels and 2 of factors, which are read twice. docs/kernels.md has the performance
// model.
//
// out may be the same array as previous, since both are accessed at the thread's own pixel only.
// out may be null in the last step. Steps that do not use previous may pass v.
template <typename T, int C>
__global__ void __launch_bounds__(kWarps* kLanes, kResident / kWarps)
    step_kernel(const T* __restrict__ image,    // [B, 3, H, W]
                const T* __restrict__ factors,  // [B, kFactors, H-2, W-2]
                const T* __restrict__ v,        // [B, channels, H, W]
                const T* previous,              // [B, channels, H, W]
                T* out,                         // [B, channels, H, W] or null
                SumUpdate<T> update,            // of [B, channels, H, W]
                MattingShape shape, StepWeights<T> weights, int rows) {
  const int height = shape.height, width = shape.width;
  const int64_t plane = int64_t{height} * width, windows = int64_t{height - 2} * (width - 2);
  const unsigned across = (width + kWarps * kColumns - 1) / (kWarps * kColumns);
  const unsigned down = (height + rows - 1) / rows;
  const unsigned group = blockIdx.x / across / down;  // of C channels, counted over the batch
  const int64_t batch = group / static_cast<unsigned>(shape.channels / C);
  const int64_t first = int64_t{group} * C * plane;
  const int top = blockIdx.x / across % down * rows, bottom = min(top + rows, height);
  const int lane = threadIdx.x % kLanes;
  const int x = (blockIdx.x % across * kWarps + threadIdx.x / kLanes) * kColumns + lane - 2;

  const bool is_window = x >= 0 && x < width - 2;
  const bool is_pixel = lane >= 2 && lane < 2 + kColumns && x < width;
  const T windows_across = static_cast<T>(min(x, width - 3) - max(x - 2, 0) + 1);
  const int column = min(max(x, 0), width - 1);
  image += batch * 3 * plane + column;
  v += first + column;
  factors += batch * kFactors * windows + min(max(x, 0), width - 3);

  T arriving[3 + C], next_factors[kFactors];
  const auto load_pixels = [&](int y) {
    const int64_t at = int64_t{min(max(y, 0), height - 1)} * width;
    FASTFCS_UNROLL
    for (int c = 0; c < 3; ++c) arriving[c] = image[at + c * plane];
    FASTFCS_UNROLL
    for (int c = 0; c < C; ++c) arriving[3 + c] = v[at + c * plane];
  };
  const auto load_factors = [&](int y) {
    const int64_t at = int64_t{min(max(y, 0), height - 3)} * (width - 2);
    FASTFCS_UNROLL
    for (int k = 0; k < kFactors; ++k) next_factors[k] = factors[at + k * windows];
  };
  T pixels[3][3 + C][3];   // image and v, columns x..x+2 of rows y..y+2, in a ring of three rows
  T models[3][C][4] = {};  // a_w, b_w of the windows in rows y-2..y, in a ring as well
  const auto receive = [&](T(&row)[3 + C][3]) {
    FASTFCS_UNROLL
    for (int c = 0; c < 3 + C; ++c) {
      row[c][0] = arriving[c];
      row[c][1] = __shfl_down_sync(kAllLanes, arriving[c], 1);
      row[c][2] = __shfl_down_sync(kAllLanes, arriving[c], 2);
    }
  };

  load_pixels(top - 2);
  receive(pixels[0]);
  load_pixels(top - 1);
  receive(pixels[1]);
  load_pixels(top);
  load_factors(top - 2);
  for (int y = top - 2; y < bottom;) {
    FASTFCS_UNROLL
    for (int r = 0; r < 3; ++r, ++y) {  // row y is pixels[r], models[r]
      receive(pixels[(r + 2) % 3]);
      T f[kFactors];
      FASTFCS_UNROLL
      for (int k = 0; k < kFactors; ++k) f[k] = next_factors[k];

      load_pixels(min(y + 3, bottom + 1));
      const int64_t at = first + int64_t{min(max(y, top), bottom - 1)} * width + column;
      T before[C], total[C];
      FASTFCS_UNROLL
      for (int c = 0; c < C; ++c) {
        before[c] = previous[at + c * plane];
        total[c] = update.accumulate ? update.sum[at + c * plane] : T{};
      }
      load_factors(min(y + 1, bottom - 1));

      T a[C][3], b[C];
      window_models<C>(
          f, [&](int c, int j) { return pixels[(r + j / 3) % 3][c][j % 3]; },
          [&](int c, int j) { return pixels[(r + j / 3) % 3][3 + c][j % 3]; }, a, b);

      const bool exists = is_window && y >= 0 && y < height - 2;
      const bool writes = is_pixel && y >= top && y < bottom;
      const T count = windows_across * static_cast<T>(min(y, height - 3) - max(y - 2, 0) + 1);
      FASTFCS_UNROLL
      for (int c = 0; c < C; ++c) {
        T box[4];
        FASTFCS_UNROLL
        for (int q = 0; q < 4; ++q) {
          models[r][c][q] = exists ? (q < 3 ? a[c][q] : b[c]) : T{};
          box[q] = models[(r + 1) % 3][c][q] + models[(r + 2) % 3][c][q] + models[r][c][q];
        }
        T fit[3];  // the contribution of the windows in this column to (A v) at pixels x..x+2
        FASTFCS_UNROLL
        for (int d = 0; d < 3; ++d)
          fit[d] = box[0] * pixels[r][0][d] + box[1] * pixels[r][1][d] + box[2] * pixels[r][2][d] +
                   box[3];
        const T fitted =
            fit[0] + __shfl_up_sync(kAllLanes, fit[1], 1) + __shfl_up_sync(kAllLanes, fit[2], 2);
        const T value = pixels[r][3 + c][0];
        const T result = weights.laplacian * (count * value - fitted) + weights.current * value +
                         weights.before * before[c];
        const T summed =
            total[c] + update.previous * before[c] + update.current * value + update.next * result;
        if (writes && out) out[at + c * plane] = result;
        if (writes && update.sum) update.sum[at + c * plane] = summed;
      }
    }
  }
}

// The height of a strip. Taller strips load and compute fewer rows twice, but the last of them then
// run alone for longer. The two effects balance where the height is about the square root of the
// total number of rows of work, over 14. A strip takes two more iterations than it has rows, and
// the iterations come in threes.
int strip_rows(int64_t work) {
  return 3 * std::max(1, static_cast<int>(
                             std::sqrt(static_cast<double>(work) / FASTFCS_MATTING_STRIP))) +
         1;
}

template <typename T, int C>
void launch_channels(const T* image, const T* factors, const T* v, const T* previous, T* out,
                     SumUpdate<T> update, MattingShape shape, StepKind kind, Stream stream) {
  const int64_t groups = shape.batch * (shape.channels / C);
  if (groups == 0) return;
  const int rows = strip_rows(groups * ((shape.width + kColumns - 1) / kColumns) * shape.height);
  const int64_t across = (shape.width + kWarps * kColumns - 1) / (kWarps * kColumns);
  const int64_t down = (shape.height + rows - 1) / rows;
  launch("step_kernel", step_kernel<T, C>, groups * across * down, kWarps * kLanes, 0, stream,
         image, factors, v, previous, out, update, shape, step_weights<T>(kind), rows);
}

// Three channels at once if their number is a multiple of three, or else two: image and factors are
// then read once for all of them. In double, one channel fills the registers.
template <typename T>
void launch_step(const T* image, const T* factors, const T* v, const T* previous, T* out,
                 SumUpdate<T> update, MattingShape shape, StepKind kind, Stream stream) {
  if constexpr (sizeof(T) == 4) {
    if (shape.channels % 3 == 0)
      return launch_channels<T, 3>(image, factors, v, previous, out, update, shape, kind, stream);
    if (shape.channels % 2 == 0)
      return launch_channels<T, 2>(image, factors, v, previous, out, update, shape, kind, stream);
  }
  launch_channels<T, 1>(image, factors, v, previous, out, update, shape, kind, stream);
}

}  // namespace

template <typename T>
void matting_factors(const T* image, T* factors, MattingShape shape, double eps, Stream stream) {
  const int64_t windows = shape.batch * (shape.height - 2) * (shape.width - 2);
  if (windows == 0) return;
  launch("factors_kernel", factors_kernel<T>, (windows + kThreads - 1) / kThreads, kThreads, 0,
         stream, image, factors, shape, eps);
}

template <typename T>
void matting_matvec(const T* image, const T* factors, const T* x, T* out, MattingShape shape,
                    Stream stream) {
  launch_step<T>(image, factors, x, x, out, {}, shape, StepKind::laplacian, stream);
}

// The forward recurrence in two buffers: T_{k+1} x overwrites T_{k-1} x. Clenshaw's backward
// recurrence needs no sum, but its rounding errors in float32 are two to four times larger and it
// does not preserve constants.
template <typename T>
void matting_filter(const T* image, const T* factors, const T* x, const double* coefficients,
                    int64_t order, T* out, T* buffers, MattingShape shape, Stream stream) {
  T* const buffer[] = {buffers,
                       buffers + shape.batch * shape.channels * shape.height * shape.width};
  for (int64_t k = 0; k < std::max<int64_t>(order, 1); ++k) {
    const T* const current = k == 0 ? x : buffer[(k - 1) % 2];
    const T* const previous = k <= 1 ? x : buffer[k % 2];
    launch_step<T>(image, factors, current, previous, k < order - 1 ? buffer[k % 2] : nullptr,
                   sum_update(k, coefficients, order, out), shape,
                   k == 0 ? StepKind::chebyshev_first : StepKind::chebyshev_next, stream);
  }
}

#define FASTFCS_INSTANTIATE(T)                                                               \
  template void matting_factors(const T*, T*, MattingShape, double, Stream);                 \
  template void matting_matvec(const T*, const T*, const T*, T*, MattingShape, Stream);      \
  template void matting_filter(const T*, const T*, const T*, const double*, int64_t, T*, T*, \
                               MattingShape, Stream);
FASTFCS_INSTANTIATE(float)
FASTFCS_INSTANTIATE(double)
#undef FASTFCS_INSTANTIATE

}  // namespace fastfcs::cuda
