// Host side of the kernels. Functions take raw device pointers of contiguous arrays, sizes and a
// stream. They return as soon as their kernels are queued, and throw std::runtime_error if a kernel
// cannot be launched. Results do not depend on the device or on the order in which blocks run:
// there are no atomics.
#pragma once

#include <cstdint>

#include "launch.h"

namespace fastfcs::cuda {

// B = batch, C = channels, H = height, W = width below.
struct MattingShape {
  int64_t batch, channels;
  int height, width;
};

// T is float or double.
template <typename T>
void matting_factors(const T* image,  // [B, 3, H, W]
                     T* factors,      // [B, kFactors, H-2, W-2]
                     MattingShape shape, double eps, Stream stream);

// out = L x
template <typename T>
void matting_matvec(const T* image,    // [B, 3, H, W]
                    const T* factors,  // [B, kFactors, H-2, W-2]
                    const T* x,        // [B, C, H, W]
                    T* out,            // [B, C, H, W], must not overlap x
                    MattingShape shape, Stream stream);

// out = sum_k coefficients[k] T_k(2 L / 9 - I) x, k = 0..order. x, out and buffers must not
// overlap.
template <typename T>
void matting_filter(const T* image,              // [B, 3, H, W]
                    const T* factors,            // [B, kFactors, H-2, W-2]
                    const T* x,                  // [B, C, H, W]
                    const double* coefficients,  // [order + 1], in host memory
                    int64_t order,
                    T* out,      // [B, C, H, W]
                    T* buffers,  // [2, B, C, H, W], unused for order 0 and 1
                    MattingShape shape, Stream stream);

// models: per pixel of the guide the mean of the models of the windows that contain it (affine.h).
// T is float or double; the shape's channels do not count.
template <typename T>
void affine_fit(const T* guide,   // [B, 3, H, W]
                const T* signal,  // [B, 3, H, W]
                T* windows,       // [B, kModel, H, W], working memory
                T* models,        // [B, kModel, H, W]
                MattingShape shape, int64_t radius, double eps, Stream stream);

// Images of three channels: [B, 3, H, W], or [B, H, W, 3] if interleaved.
struct ImageShape {
  int64_t batch;
  int height, width;
  bool interleaved;

  // Elements from one channel, and from one pixel, to the next.
  __host__ __device__ int64_t channel() const { return interleaved ? 1 : int64_t(height) * width; }
  __host__ __device__ int64_t pixel() const { return interleaved ? 3 : 1; }
};

// out = a . I + b with the models enlarged to the image's size; integer samples are soft-clipped.
// (T, A) is (uint8_t, float), (uint16_t, float), (float, float) or (double, double).
template <typename T, typename A>
void affine_apply(const T* image, const A* models /* [B, kModel, rows, columns] */, T* out,
                  ImageShape shape, int rows, int columns, Stream stream);

// How features lie in memory: [B, C, n], torch's default, or [B, n, C], channels_last.
enum class Layout { channels_first, channels_last };

// B = batch, C = channels, n = pixels below; G = h^T h / n as in gram.h. There is one target H for
// all batch elements or one per element: targets is 1 or batch. The layout is that of all features.
struct GramShape {
  int64_t batch, channels, pixels, targets;
  Layout layout = Layout::channels_first;
};

// The number of elements of workspace, of type A, that the functions below need.
int64_t gram_workspace(GramShape shape);
int64_t cross_gram_workspace(GramShape shape);
int64_t gram_correction_workspace(GramShape shape);
int64_t gram_correction_backward_workspace(GramShape shape);

// (T, A) is (float, float), (double, double), or (a half type or Tf32, float). Tf32 is float32 that
// tensor cores may round.
template <typename T, typename A>
void gram(const T* h,  // [B, C, n] or [B, n, C]
          A* out,      // [B, C, C]
          A* workspace, GramShape shape, Stream stream);

// out = h^T g
template <typename T, typename A>
void cross_gram(const T* h,  // [B, C, n] or [B, n, C]
                const T* g,  // the same
                A* out,      // [B, C, C]
                A* workspace, GramShape shape, Stream stream);

template <typename T, typename A>
void gram_correction(const T* h,       // [B, C, n] or [B, n, C]
                     const A* target,  // [targets, C, C]
                     T* out,           // like h
                     A* workspace, GramShape shape, Stream stream);

template <typename T, typename A>
void gram_correction_backward(const T* h,       // [B, C, n] or [B, n, C]
                              const A* target,  // [targets, C, C]
                              const T* grad,    // like h
                              T* dh,            // like h
                              A* dtarget,       // [targets, C, C]
                              A* workspace, GramShape shape, Stream stream);

// The passes between convolutions. Features are [B, H, W, C] in channels_last memory. Padded ones
// are [B, H+2, W+2, C]: each border pixel is copied outwards.
struct FeatureShape {
  int64_t batch, channels;
  int height, width;
};

// Features of which the pixels of a row are adjacent. Rows may lie apart, as those of a slice.
template <typename T>
struct PixelRows {
  const T* data;
  int64_t row, batch;  // elements from one row, and from one batch element, to the next
};

// T is float, double or a half type. s(by) is 1 where by > 0, else the slope. The shape is that of
// x and by; cells have 2 x 2 of their pixels, or fewer at the border.

// out = pad(s(by) x)
template <typename T>
void gate(PixelRows<T> x, PixelRows<T> by, T* out /* padded */, FeatureShape shape, double slope,
          Stream stream);

// out = s(by) times the sum of the copies in grad
template <typename T>
void gate_backward(PixelRows<T> grad /* padded */, PixelRows<T> by, T* out, FeatureShape shape,
                   double slope, Stream stream);

// out = pad(mean over cells of s(by) x)
template <typename T>
void halve(PixelRows<T> x, PixelRows<T> by, T* out /* padded, of cells */, FeatureShape shape,
           double slope, Stream stream);

// out = s(by) times the sum of the copies in grad, divided by the number of pixels of the cell
template <typename T>
void halve_backward(PixelRows<T> grad /* padded, of cells */, PixelRows<T> by, T* out,
                    FeatureShape shape, double slope, Stream stream);

// out = pad(h W + s(h) U g), where U enlarges the coarse g as torch's bilinear interpolation does.
// Types are those of gram.
template <typename T, typename A>
void level_gradient(const T* h,        // [B, H, W, C]
                    const A* weights,  // [matrices, C, C], W; matrices is 1 or batch
                    const T* coarse,   // [B, ceil(H/2), ceil(W/2), C], g, or null
                    T* out,            // [B, H+2, W+2, C]
                    FeatureShape shape, int64_t matrices, double slope, Stream stream);

}  // namespace fastfcs::cuda
