// The matting Laplacian on CUDA: its factors, and one fused kernel that is both the product L v and a filter step.
// The arithmetic of a window and of a pixel is matting.h's, the same as on the CPU.
#include "../matting.h"

#include <algorithm>

#include "kernels.h"

namespace fastfcs::cuda {
namespace {

constexpr int kThreads = 256;

// One thread a window, float64 inside whatever T is: rounding earlier ruins the filter.
// Traffic, float32: 12 B a pixel read (the nine-fold reuse is left to the caches), 36 B written. Once an image.
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

// A block makes a tile of kTileX x kTileY pixels of C channels. Its pixels lie in windows that begin up to two pixels
// before the tile, and those windows reach two pixels beyond it: hence the sizes of what it keeps in shared memory.
constexpr int kTileX = 32, kTileY = 16;
constexpr int kWindowsX = kTileX + 2, kWindows = kWindowsX * (kTileY + 2);
constexpr int kPixelsX = kTileX + 4, kPixels = kPixelsX * (kTileY + 4);
constexpr int kRows = kTileX * kTileY / kThreads;  // pixels of a thread, one below the other

// A step's share of the filter's result, sum = [sum] + previous_ T_{k-1} x + current_ T_k x + next_ T_{k+1} x.
template <typename T>
struct Sum {
  T* to;         // null: this step adds nothing
  bool started;  // whether anything is there to add to
  T previous, current, next;
};

// out = L v, or a step of the Chebyshev recurrence: T_{k+1} x from v = T_k x and previous = T_{k-1} x.
//
//   1  image and v, halo of two, into shared memory: device memory is read once, in rows
//   2  one thread a window: a_w, b_w of every channel into shared memory; factors are read once for all C channels
//   3  one thread kRows pixels: box sums of a_w, b_w in a fixed order, the recurrence, the sum, coalesced writes
//
// Traffic a pixel, float32, C = 3: image 12, factors 36, v 12, previous 12, out 12 = 84 B, and 24 more where the sum is
// touched, one step in three: 92 B on average. The halo (1.41 times for image and v, 1.20 for factors) comes from L2.
// out may be previous, each being touched at its own pixel only, and may be null after the last step.
template <typename T, int C>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 4 ? 3 : 2)
    step_kernel(const T* __restrict__ image, const T* __restrict__ factors, const T* __restrict__ v, const T* previous,
                T* out, Sum<T> sum, Shape shape, Step step) {
  T* const pixels = shared_memory<T>();          // [3 + C][kPixels]: the image, then v
  T* const models = pixels + (3 + C) * kPixels;  // [C][4][kWindows]: a_w, b_w
  const int height = shape.height, width = shape.width;
  const std::int64_t plane = std::int64_t{height} * width, windows = std::int64_t{height - 2} * (width - 2);

  const unsigned tiles_x = (width + kTileX - 1) / kTileX, tiles_y = (height + kTileY - 1) / kTileY;
  const unsigned groups = static_cast<unsigned>(shape.channels / C);
  const int left = blockIdx.x % tiles_x * kTileX;
  const int top = blockIdx.x / tiles_x % tiles_y * kTileY;
  const std::int64_t group = blockIdx.x / tiles_x / tiles_y;  // of all batches
  const std::int64_t batch = group / groups;
  const std::int64_t first = group * C * plane;             // of this group's channels

  for (int i = threadIdx.x; i < kPixels; i += kThreads) {
    const int px = left - 2 + i % kPixelsX, py = top - 2 + i / kPixelsX;
    const bool inside = px >= 0 && px < width && py >= 0 && py < height;
    const std::int64_t at = std::int64_t{py} * width + px;
    FASTFCS_UNROLL
    for (int c = 0; c < 3; ++c) pixels[c * kPixels + i] = inside ? image[(batch * 3 + c) * plane + at] : T{};
    FASTFCS_UNROLL
    for (int c = 0; c < C; ++c) pixels[(3 + c) * kPixels + i] = inside ? v[first + c * plane + at] : T{};
  }
  __syncthreads();

  for (int i = threadIdx.x; i < kWindows; i += kThreads) {
    const int local_x = i % kWindowsX, local_y = i / kWindowsX;
    const int wx = left - 2 + local_x, wy = top - 2 + local_y;  // a window is where its first pixel is
    T a[C][3] = {}, b[C] = {};
    if (wx >= 0 && wx < width - 2 && wy >= 0 && wy < height - 2) {
      const T* from = factors + batch * kFactors * windows + std::int64_t{wy} * (width - 2) + wx;
      T f[kFactors];
      FASTFCS_UNROLL
      for (int k = 0; k < kFactors; ++k) f[k] = from[k * windows];
      const T* corner = pixels + local_y * kPixelsX + local_x;
      const auto channel = [corner](int c, int j) { return corner[c * kPixels + j / 3 * kPixelsX + j % 3]; };
      window_models<C>(
          f, channel, [&](int c, int j) { return channel(3 + c, j); }, a, b);
    }
    FASTFCS_UNROLL
    for (int c = 0; c < C; ++c) {
      T* const model = models + c * 4 * kWindows + i;
      model[0] = a[c][0];
      model[kWindows] = a[c][1];
      model[2 * kWindows] = a[c][2];
      model[3 * kWindows] = b[c];
    }
  }
  __syncthreads();

  const int column = threadIdx.x % kTileX, row = threadIdx.x / kTileX * kRows;
  const int px = left + column;
  if (px >= width) return;
  const int count_x = min(px, width - 3) - max(px - 2, 0) + 1;
  FASTFCS_UNROLL
  for (int c = 0; c < C; ++c) {
    T box[4][kRows];  // rows of three windows are summed once and shared by the pixels above one another
    FASTFCS_UNROLL
    for (int q = 0; q < 4; ++q) {
      const T* const model = models + (c * 4 + q) * kWindows + row * kWindowsX + column;
      T across[kRows + 2];
      FASTFCS_UNROLL
      for (int r = 0; r < kRows + 2; ++r)
        across[r] = model[r * kWindowsX] + model[r * kWindowsX + 1] + model[r * kWindowsX + 2];
      FASTFCS_UNROLL
      for (int r = 0; r < kRows; ++r) box[q][r] = across[r] + across[r + 1] + across[r + 2];
    }
    FASTFCS_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const int py = top + row + r;
      if (py >= height) break;
      const T* const own = pixels + (row + r + 2) * kPixelsX + column + 2;
      const T value = own[(3 + c) * kPixels];
      const int count = count_x * (min(py, height - 3) - max(py - 2, 0) + 1);  // windows that hold this pixel
      const T product = laplacian_at(static_cast<T>(count), value, box[0][r], box[1][r], box[2][r], box[3][r], own[0],
                                     own[kPixels], own[2 * kPixels]);
      const std::int64_t at = first + c * plane + std::int64_t{py} * width + px;
      const T before = step == Step::chebyshev_next ? previous[at] : T{};
      const T next = step == Step::laplacian         ? product
                     : step == Step::chebyshev_first ? chebyshev_first(product, value)
                                                     : chebyshev_next(product, value, before);
      if (out) out[at] = next;
      if (sum.to) {
        const T terms = sum.previous * before + sum.current * value + sum.next * next;
        sum.to[at] = sum.started ? sum.to[at] + terms : terms;
      }
    }
  }
}

template <typename T, int C>
void run_step(const T* image, const T* factors, const T* v, const T* previous, T* out, Sum<T> sum, Shape shape,
              Step step, Stream stream) {
  const std::int64_t tiles =
      std::int64_t{(shape.width + kTileX - 1) / kTileX} * ((shape.height + kTileY - 1) / kTileY);
  const std::int64_t blocks = tiles * shape.batch * (shape.channels / C);
  if (blocks == 0) return;
  launch("step_kernel", step_kernel<T, C>, blocks, kThreads, ((3 + C) * kPixels + C * 4 * kWindows) * sizeof(T), stream,
         image, factors, v, previous, out, sum, shape, step);
}

// Three channels at once where they come in threes: factors and image are then read once for all three. Not in double,
// whose tiles would not fit in 48 KB.
template <typename T>
void laplacian_step(const T* image, const T* factors, const T* v, const T* previous, T* out, Sum<T> sum, Shape shape,
                    Step step, Stream stream) {
  if constexpr (sizeof(T) == 4) {
    if (shape.channels % 3 == 0) return run_step<T, 3>(image, factors, v, previous, out, sum, shape, step, stream);
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
  laplacian_step<T>(image, factors, x, nullptr, out, {}, shape, Step::laplacian, stream);
}

// The forward recurrence: T_{k+1} x takes the place of T_{k-1} x, in two buffers. Clenshaw's backward one needs no sum,
// but loses two to four times more to rounding in float32 and does not keep constants. A step has three terms at hand,
// so the sum is touched in every third step only.
template <typename T>
void matting_filter(const T* image, const T* factors, const T* x, const double* coefficients, std::int64_t order,
                    T* out, T* buffers, Shape shape, Stream stream) {
  T* const place[] = {buffers, buffers + shape.batch * shape.channels * shape.height * shape.width};
  std::int64_t added = 0;  // T_0 x .. T_{added-1} x are in the sum
  const auto coefficient = [&](std::int64_t k) {
    return k >= added && k <= order ? static_cast<T>(coefficients[k]) : T{};
  };
  for (std::int64_t k = 0; k < std::max<std::int64_t>(order, 1); ++k) {
    const T* const current = k == 0 ? x : place[(k - 1) % 2];
    const T* const previous = k == 1 ? x : place[k % 2];
    const bool last = k >= order - 1;
    Sum<T> sum{};
    if (last || k == added + 1) {
      sum = {out, added > 0, coefficient(k - 1), coefficient(k), coefficient(k + 1)};
      added = k + 2;
    }
    laplacian_step<T>(image, factors, current, previous, last ? nullptr : place[k % 2], sum, shape,
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
