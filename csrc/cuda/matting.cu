// The matting Laplacian on CUDA: its factors, and one fused kernel that is both the product L v and a filter step.
// The arithmetic of a window and of a pixel is matting.h's, the same as on the CPU.
#include "../matting.h"

#include <algorithm>
#include <cmath>

#include "kernels.h"

namespace fastfcs::cuda {
namespace {

constexpr int kThreads = 256;

// One thread a window, float64 inside whatever T is: rounding earlier ruins the filter.
// Traffic, float32: 12 B per pixel read (the nine-fold reuse is left to the caches), 24 B written. Once per image.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    factors_kernel(const T* __restrict__ image, T* __restrict__ factors, Shape shape, double eps) {
  const int width = shape.width - 2;
  const std::int64_t windows = std::int64_t{shape.height - 2} * width;
  const std::int64_t plane = std::int64_t{shape.height} * shape.width;
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= shape.batch * windows) return;
  const std::int64_t b = i / windows, w = i % windows;
  const T* corner = image + b * 3 * plane + w / width * shape.width + w % width;
  double pixels[3][kWindow];
  FASTFCS_UNROLL
  for (int c = 0; c < 3; ++c) {
    FASTFCS_UNROLL
    for (int j = 0; j < kWindow; ++j) pixels[c][j] = corner[c * plane + j / 3 * shape.width + j % 3];
  }
  double result[kFactors];
  window_factors(pixels, eps, result);
  FASTFCS_UNROLL
  for (int k = 0; k < kFactors; ++k) factors[(b * kFactors + k) * windows + w] = static_cast<T>(result[k]);
}

// Every kind of step is a linear form, out = product (L v) + current v + before previous, so one kernel makes them all.
template <typename T>
struct LinearForm {
  T product, current, before;
};

template <typename T>
LinearForm<T> linear_form(Step step) {
  switch (step) {
    case Step::laplacian: return {1, 0, 0};
    case Step::chebyshev_first: return {chebyshev_first<T>(1, 0), chebyshev_first<T>(0, 1), 0};
    default: return {chebyshev_next<T>(1, 0, 0), chebyshev_next<T>(0, 1, 0), chebyshev_next<T>(0, 0, 1)};
  }
}

constexpr int kLanes = 32;
constexpr unsigned kAllLanes = 0xffffffff;
constexpr int kColumns = kLanes - 4;  // pixel columns that a warp writes: their windows reach two more on either side

// Two choices that the model makes and a GPU has to confirm; both may be set by the compiler's -D for that.
#ifndef FASTFCS_MATTING_WARPS
#define FASTFCS_MATTING_WARPS 2
#endif
#ifndef FASTFCS_MATTING_STRIP
#define FASTFCS_MATTING_STRIP 1800
#endif
constexpr int kWarps = FASTFCS_MATTING_WARPS;  // of a block, on neighbouring strips, which share columns in the L1 cache
constexpr int kResident = 12;                  // warps of a multiprocessor, of up to 168 registers

// A warp marches down a strip, one row a turn, a lane a column. A lane stands for the pixel column x and for the
// windows that begin there; pixel (x, y) lies in the windows that begin in rows y-2..y of columns x-2..x. In turn y
//
//   1  pixel row y+2 arrives: image and v of columns x..x+2, the lane's own and two shuffled from the lanes above it
//   2  loads leave: pixel row y+3 for the next turn, what this turn ends with, factors of row y+1 for the next turn (in
//      this order, which the compiler then keeps farthest ahead of their use)
//   3  the lane's window gives a_w, b_w of every channel, and with the last two rows' the sums over its three rows
//   4  their affine fits of pixels x..x+2 of row y, two of them shuffled to the lanes above, make (L v)(x, y)
//   5  the recurrence, the sum, coalesced writes
//
// All that it needs of earlier rows stays in registers: no shared memory, no barrier. The loop is three turns unrolled,
// so that a row changes its part and not its registers, with no branch among them: behind one, the compiler would put
// off the loads of the next turn. Lanes and rows outside the image therefore read its edge and count for nothing.
// A pixel's arithmetic has one order, however the image is cut into strips.
//
// Traffic per pixel, float32, C = 3: image 12, factors 24, v 12, previous 12, out 12 = 72 B, and 24 more where the sum is
// touched, one step in three: 80 B on average. Strips have 4 rows of pixels and 2 of factors in common, read twice.
// The model and what it predicts: docs/kernels.md.
//
// out may be previous, each being touched at its own pixel only, and may be null after the last step; previous may be v
// where the step has no use for it.
template <typename T, int C>
__global__ void __launch_bounds__(kWarps * kLanes, kResident / kWarps)
    step_kernel(const T* __restrict__ image, const T* __restrict__ factors, const T* __restrict__ v, const T* previous,
                T* out, Sum<T> sum, Shape shape, LinearForm<T> form, int rows) {
  const int height = shape.height, width = shape.width;
  const std::int64_t plane = std::int64_t{height} * width, windows = std::int64_t{height - 2} * (width - 2);
  const unsigned across = (width + kWarps * kColumns - 1) / (kWarps * kColumns), down = (height + rows - 1) / rows;
  const unsigned group = blockIdx.x / across / down;  // of C channels, in all batches
  const std::int64_t batch = group / static_cast<unsigned>(shape.channels / C), first = std::int64_t{group} * C * plane;
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
    const std::int64_t at = std::int64_t{min(max(y, 0), height - 1)} * width;
    FASTFCS_UNROLL
    for (int c = 0; c < 3; ++c) arriving[c] = image[at + c * plane];
    FASTFCS_UNROLL
    for (int c = 0; c < C; ++c) arriving[3 + c] = v[at + c * plane];
  };
  const auto load_factors = [&](int y) {
    const std::int64_t at = std::int64_t{min(max(y, 0), height - 3)} * (width - 2);
    FASTFCS_UNROLL
    for (int k = 0; k < kFactors; ++k) next_factors[k] = factors[at + k * windows];
  };
  T pixels[3][3 + C][3];   // image and v, columns x..x+2 of rows y..y+2, which take turns in the three places
  T models[3][C][4] = {};  // a_w, b_w of the windows in rows y-2..y, likewise
  const auto arrive = [&](T(&row)[3 + C][3]) {
    FASTFCS_UNROLL
    for (int c = 0; c < 3 + C; ++c) {
      row[c][0] = arriving[c];
      row[c][1] = __shfl_down_sync(kAllLanes, arriving[c], 1);
      row[c][2] = __shfl_down_sync(kAllLanes, arriving[c], 2);
    }
  };

  load_pixels(top - 2);
  arrive(pixels[0]);
  load_pixels(top - 1);
  arrive(pixels[1]);
  load_pixels(top);
  load_factors(top - 2);
  for (int y = top - 2; y < bottom;) {
    FASTFCS_UNROLL
    for (int r = 0; r < 3; ++r, ++y) {  // row y is pixels[r], models[r]
      arrive(pixels[(r + 2) % 3]);
      T f[kFactors];
      FASTFCS_UNROLL
      for (int k = 0; k < kFactors; ++k) f[k] = next_factors[k];

      load_pixels(min(y + 3, bottom + 1));
      const std::int64_t at = first + std::int64_t{min(max(y, top), bottom - 1)} * width + column;
      T before[C], total[C];
      FASTFCS_UNROLL
      for (int c = 0; c < C; ++c) {
        before[c] = previous[at + c * plane];
        total[c] = sum.started ? sum.to[at + c * plane] : T{};
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
        T fit[3];  // this column of windows' share of (A v) at pixels x..x+2
        FASTFCS_UNROLL
        for (int d = 0; d < 3; ++d)
          fit[d] = box[0] * pixels[r][0][d] + box[1] * pixels[r][1][d] + box[2] * pixels[r][2][d] + box[3];
        const T fitted = fit[0] + __shfl_up_sync(kAllLanes, fit[1], 1) + __shfl_up_sync(kAllLanes, fit[2], 2);
        const T value = pixels[r][3 + c][0];
        const T result = form.product * (count * value - fitted) + form.current * value + form.before * before[c];
        const T summed = total[c] + sum.previous * before[c] + sum.current * value + sum.next * result;
        if (writes && out) out[at + c * plane] = result;
        if (writes && sum.to) sum.to[at + c * plane] = summed;
      }
    }
  }
}

// Rows of a strip: what strips read and compute twice falls with their height, the time in which the last of them run
// alone grows with it, and the two are equal at about the square root of all the rows of work, over 14. The turns,
// two more than the rows, come in threes.
int strip_rows(std::int64_t work) {
  return 3 * std::max(1, static_cast<int>(std::sqrt(static_cast<double>(work) / FASTFCS_MATTING_STRIP))) + 1;
}

template <typename T, int C>
void run_step(const T* image, const T* factors, const T* v, const T* previous, T* out, Sum<T> sum, Shape shape,
              Step step, Stream stream) {
  const std::int64_t groups = shape.batch * (shape.channels / C);
  if (groups == 0) return;
  const int rows = strip_rows(groups * ((shape.width + kColumns - 1) / kColumns) * shape.height);
  const std::int64_t across = (shape.width + kWarps * kColumns - 1) / (kWarps * kColumns);
  const std::int64_t down = (shape.height + rows - 1) / rows;
  launch("step_kernel", step_kernel<T, C>, groups * across * down, kWarps * kLanes, 0, stream, image, factors, v,
         previous, out, sum, shape, linear_form<T>(step), rows);
}

// Three channels at once where they come in threes, else two: factors and image are then read once for all of them. Not
// in double, whose registers one channel fills.
template <typename T>
void laplacian_step(const T* image, const T* factors, const T* v, const T* previous, T* out, Sum<T> sum, Shape shape,
                    Step step, Stream stream) {
  if constexpr (sizeof(T) == 4) {
    if (shape.channels % 3 == 0) return run_step<T, 3>(image, factors, v, previous, out, sum, shape, step, stream);
    if (shape.channels % 2 == 0) return run_step<T, 2>(image, factors, v, previous, out, sum, shape, step, stream);
  }
  run_step<T, 1>(image, factors, v, previous, out, sum, shape, step, stream);
}

}  // namespace

template <typename T>
void matting_factors(const T* image, T* factors, Shape shape, double eps, Stream stream) {
  const std::int64_t windows = shape.batch * (shape.height - 2) * (shape.width - 2);
  if (windows == 0) return;
  launch("factors_kernel", factors_kernel<T>, (windows + kThreads - 1) / kThreads, kThreads, 0, stream, image, factors,
         shape, eps);
}

template <typename T>
void matting_matvec(const T* image, const T* factors, const T* x, T* out, Shape shape, Stream stream) {
  laplacian_step<T>(image, factors, x, x, out, {}, shape, Step::laplacian, stream);
}

// The forward recurrence: T_{k+1} x takes the place of T_{k-1} x, in two buffers. Clenshaw's backward one needs no sum,
// but loses two to four times more to rounding in float32 and does not keep constants.
template <typename T>
void matting_filter(const T* image, const T* factors, const T* x, const double* coefficients, std::int64_t order,
                    T* out, T* buffers, Shape shape, Stream stream) {
  T* const place[] = {buffers, buffers + shape.batch * shape.channels * shape.height * shape.width};
  for (std::int64_t k = 0; k < std::max<std::int64_t>(order, 1); ++k) {
    const T* const current = k == 0 ? x : place[(k - 1) % 2];
    const T* const previous = k <= 1 ? x : place[k % 2];
    laplacian_step<T>(image, factors, current, previous, k < order - 1 ? place[k % 2] : nullptr,
                      sum_of_step(k, coefficients, order, out), shape,
                      k == 0 ? Step::chebyshev_first : Step::chebyshev_next, stream);
  }
}

#define FASTFCS_INSTANTIATE(T)                                                                                      \
  template void matting_factors(const T*, T*, Shape, double, Stream);                                               \
  template void matting_matvec(const T*, const T*, const T*, T*, Shape, Stream);                                    \
  template void matting_filter(const T*, const T*, const T*, const double*, std::int64_t, T*, T*, Shape, Stream);
FASTFCS_INSTANTIATE(float)
FASTFCS_INSTANTIATE(double)
#undef FASTFCS_INSTANTIATE

}  // namespace fastfcs::cuda
