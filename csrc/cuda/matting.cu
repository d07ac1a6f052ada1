// The matting Laplacian on CUDA: its factors, and one fused kernel that is both the product L v and a filter step.
// The arithmetic of a window and of a pixel is matting.h's, the same as on the CPU.
#include "../matting.h"

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

template <typename T>
struct Step {
  T laplacian, v, w, x;
};

// out = step.laplacian L v + step.v v + step.w w + step.x x        (w and x may be null: their term is left out)
//
//   1  image and v, halo of two, into shared memory: device memory is read once, in rows
//   2  one thread a window: a_w, b_w of every channel into shared memory; factors are read once for all C channels
//   3  one thread kRows pixels: box sums of a_w, b_w in a fixed order, the three terms, one coalesced write
//
// Traffic a pixel, float32, C = 3: image 12, factors 36, v 12, w 12, x 12, out 12 = 96 B, the floor with factors read;
// the halo (1.41 times for image and v, 1.20 for factors) comes from L2. out may be w: each is touched at its own pixel.
template <typename T, int C>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 4 ? 3 : 2)
    step_kernel(const T* __restrict__ image, const T* __restrict__ factors, const T* __restrict__ v, const T* w,
                const T* __restrict__ x, T* out, Shape shape, Step<T> step) {
  T* const pixels = shared_memory<T>();            // [3 + C][kPixels]: the image, then v
  T* const models = pixels + (3 + C) * kPixels;    // [C][4][kWindows]: a_w, b_w
  const int height = shape.height, width = shape.width;
  const std::int64_t plane = std::int64_t{height} * width, windows = std::int64_t{height - 2} * (width - 2);

  const unsigned tiles_x = (width + kTileX - 1) / kTileX, tiles_y = (height + kTileY - 1) / kTileY;
  const unsigned groups = static_cast<unsigned>(shape.channels / C);
  const int left = blockIdx.x % tiles_x * kTileX;
  const int top = blockIdx.x / tiles_x % tiles_y * kTileY;
  const std::int64_t group = blockIdx.x / tiles_x / tiles_y;  // of all batches
  const std::int64_t batch = group / groups;
  const std::int64_t first = group * C * plane;               // of this group's channels

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
  const int across = min(px, width - 3) - max(px - 2, 0) + 1;
  FASTFCS_UNROLL
  for (int c = 0; c < C; ++c) {
    T box[4][kRows];  // rows of three windows are summed once and shared by the pixels above one another
    FASTFCS_UNROLL
    for (int q = 0; q < 4; ++q) {
      const T* const model = models + (c * 4 + q) * kWindows + row * kWindowsX + column;
      T sum[kRows + 2];
      FASTFCS_UNROLL
      for (int r = 0; r < kRows + 2; ++r)
        sum[r] = model[r * kWindowsX] + model[r * kWindowsX + 1] + model[r * kWindowsX + 2];
      FASTFCS_UNROLL
      for (int r = 0; r < kRows; ++r) box[q][r] = sum[r] + sum[r + 1] + sum[r + 2];
    }
    FASTFCS_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const int py = top + row + r;
      if (py >= height) break;
      const T* const own = pixels + (row + r + 2) * kPixelsX + column + 2;
      const T value = own[(3 + c) * kPixels];
      const int count = across * (min(py, height - 3) - max(py - 2, 0) + 1);  // windows that hold this pixel
      const T product = laplacian_at(static_cast<T>(count), value, box[0][r], box[1][r], box[2][r], box[3][r], own[0],
                                     own[kPixels], own[2 * kPixels]);
      const std::int64_t at = first + c * plane + std::int64_t{py} * width + px;
      T result = step.laplacian * product + step.v * value;
      if (w) result += step.w * w[at];
      if (x) result += step.x * x[at];
      out[at] = result;
    }
  }
}

template <typename T, int C>
void run_step(const T* image, const T* factors, const T* v, const T* w, const T* x, T* out, Shape shape, Step<T> step,
              Stream stream) {
  const std::int64_t tiles =
      std::int64_t{(shape.width + kTileX - 1) / kTileX} * ((shape.height + kTileY - 1) / kTileY);
  const std::int64_t blocks = tiles * shape.batch * (shape.channels / C);
  if (blocks == 0) return;
  launch("step_kernel", step_kernel<T, C>, blocks, kThreads, ((3 + C) * kPixels + C * 4 * kWindows) * sizeof(T), stream,
         image, factors, v, w, x, out, shape, step);
}

// Three channels at once where they come in threes: factors and image are then read once for all three. Not in double,
// whose tiles would not fit in 48 KB.
template <typename T>
void laplacian_step(const T* image, const T* factors, const T* v, const T* w, const T* x, T* out, Shape shape,
                    Step<T> step, Stream stream) {
  if constexpr (sizeof(T) == 4) {
    if (shape.channels % 3 == 0) return run_step<T, 3>(image, factors, v, w, x, out, shape, step, stream);
  }
  run_step<T, 1>(image, factors, v, w, x, out, shape, step, stream);
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
  laplacian_step<T>(image, factors, x, nullptr, nullptr, out, shape, {1, 0, 0, 0}, stream);
}

// Clenshaw's recurrence, A = 2 L / 9 - I:
//
//   b_k = c_k x + 2 A b_{k+1} - b_{k+2},  k = order-1 .. 1,      p(L) x = c_0 x + A b_1 - b_2
//
// It needs two buffers (b_k overwrites b_{k+2}) and no running sum, which the forward recurrence on T_k x would read and
// write at every step: 24 B a pixel less. b_order = c_order x is never stored: it is folded into the coefficients of x.
template <typename T>
void matting_filter(const T* image, const T* factors, const T* x, const double* coefficients, std::int64_t order, T* out,
                    T* buffer, Shape shape, Stream stream) {
  const double last = coefficients[order];
  if (order == 0)
    return laplacian_step<T>(image, factors, x, nullptr, nullptr, out, shape, {0, static_cast<T>(last), 0, 0}, stream);
  for (std::int64_t k = order - 1; k >= 0; --k) {
    const double twice = k == 0 ? 1 : 2;
    T* const to = k % 2 == 0 ? out : buffer;
    const T* const v = k == order - 1 ? x : k % 2 == 0 ? buffer : out;
    const double of_v = k == order - 1 ? last * twice : twice;
    const double of_x = k == order - 2 ? coefficients[k] - last : coefficients[k];
    const Step<T> step{static_cast<T>(of_v * 2 / kLambdaMax), static_cast<T>(-of_v), -1, static_cast<T>(of_x)};
    laplacian_step<T>(image, factors, v, k < order - 2 ? to : nullptr, x, to, shape, step, stream);
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
