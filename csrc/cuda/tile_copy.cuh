// Copies of tiles of feature rows from device to shared memory, by all threads of a block.
// Included by gram_product.cuh and gram_apply.cuh.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "async_copy.h"
#include "kernels.h"
#include "warp_product.h"

namespace fastfcs::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kLanes;  // per block of the Gram kernels

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The widest copies, in bytes, that the alignment of these arrays of rows allows: 16, 4, or 2,
// which stands for one element.
int copy_width(size_t row_bytes, std::initializer_list<const void*> arrays) {
  size_t bits = row_bytes;
  for (const void* array : arrays) bits |= reinterpret_cast<size_t>(array);
  return bits % 16 == 0 ? 16 : bits % 4 == 0 ? 4 : 2;
}

// to[i * kStride + p] = from[i * pixels + pixel + p] for kRows rows of kPixels, kWidth elements per
// copy. Zero from row `rows` and from pixel `pixels` on.
template <int kWidth, int kRows, int kPixels, int kStride, typename T>
__device__ __forceinline__ void copy_rows(T* to, const T* from, int rows, int64_t pixel,
                                          int64_t pixels) {
  constexpr unsigned kRowCopies = kPixels / kWidth, kThreadCopies = kRows * kRowCopies / kThreads;
  constexpr unsigned kCopiesInRow = kRowCopies < kThreads ? 1 : kRowCopies / kThreads;
  constexpr unsigned kRowsAtOnce = kRowCopies < kThreads ? kThreads / kRowCopies : 1;
  static_assert(kRows * kRowCopies % kThreads == 0);
  const int row = threadIdx.x / kRowCopies, p = threadIdx.x % kRowCopies * kWidth;
  const int64_t left = pixels - pixel;
  from += row * pixels + pixel + p;  // may point past the array, where nothing is read
  to += row * kStride + p;
#pragma unroll(kThreadCopies < 8 ? kThreadCopies : 8)
  for (unsigned copy = 0; copy < kThreadCopies; ++copy) {
    const int below = copy / kCopiesInRow * kRowsAtOnce;
    const int right = copy % kCopiesInRow * kThreads * kWidth;
    copy_async<kWidth * sizeof(T)>(to + below * kStride + right, from + right,
                                   row + below < rows && p + right < left);
    if (copy % kCopiesInRow == kCopiesInRow - 1) from += kRowsAtOnce * pixels;
  }
}

// The same with copies of `width` bytes, see copy_width.
template <int kRows, int kPixels, int kStride, typename T>
__device__ __forceinline__ void copy_tile(T* to, const T* from, int rows, int64_t pixel,
                                          int64_t pixels, int width) {
  if (width == 16)
    return copy_rows<16 / sizeof(T), kRows, kPixels, kStride>(to, from, rows, pixel, pixels);
  if constexpr (sizeof(T) == 2)
    if (width == 4) return copy_rows<2, kRows, kPixels, kStride>(to, from, rows, pixel, pixels);
  copy_rows<1, kRows, kPixels, kStride>(to, from, rows, pixel, pixels);
}

// Copies kSide channels from c0 on and kPixels pixels from `pixel` on of one batch element's
// features, [C, n] or [n, C], to a tile [kSide][kStride] or [kPixels][kStride].
template <Layout kLayout, int kSide, int kPixels, int kStride, typename T>
__device__ __forceinline__ void copy_features(T* to, const T* features, const GramShape& shape,
                                              int c0, int64_t pixel, int width) {
  if constexpr (kLayout == Layout::channels_first)
    copy_tile<kSide, kPixels, kStride>(to, features + c0 * shape.pixels,
                                       static_cast<int>(shape.channels) - c0, pixel, shape.pixels,
                                       width);
  else
    copy_tile<kPixels, kSide, kStride>(
        to, features + pixel * shape.channels,
        static_cast<int>(min(int64_t{kPixels}, shape.pixels - pixel)), c0, shape.channels, width);
}

}  // namespace
}  // namespace fastfcs::cuda
