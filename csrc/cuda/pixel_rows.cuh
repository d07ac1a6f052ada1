// Features in channels_last memory: gates, copies in the padding, and the enlargement of coarser
// features. Included by features.cu and gram_apply.cuh.
#pragma once

#include <cstdint>

#include "../gram.h"
#include "kernels.h"
#include "warp_product.h"

namespace fastfcs::cuda {
namespace {

// s(by) x
template <typename T, typename A>
__device__ A gated(A x, T by, A slope) {
  return static_cast<A>(by) > 0 ? x : slope * x;
}

// The rows of a padded array that hold row y, or the columns that hold column y: one, or more at
// the border.
struct Copies {
  int first, last;
  __device__ Copies(int y, int size)
      : first(y > 0 ? y + 1 : 0), last(y < size - 1 ? y + 1 : size + 1) {}
};

// Writes channels of pixel (y, x), of height x width, to padded features of one batch element.
// `padded` points to the first of these channels.
template <typename T, int kVector>
__device__ __forceinline__ void store_padded(T* padded, int y, int x, int height, int width,
                                             int64_t channels, const Vector<T, kVector>& values) {
  const Copies rows(y, height), columns(x, width);
#pragma unroll 1
  for (int row = rows.first; row <= rows.last; ++row) {
#pragma unroll 1
    for (int column = columns.first; column <= columns.last; ++column)
      *reinterpret_cast<Vector<T, kVector>*>(padded + (row * (int64_t{width} + 2) + column) *
                                                          channels) = values;
  }
}

__host__ __device__ int halved(int pixels) { return pixels / 2 + pixels % 2; }

// The two rows of a coarse array of `size` rows between which row y lies, and the weight of the
// second; columns likewise. A coarse row is as high as 1 / scale rows. Pixels outside are those at
// the border, as in torch's bilinear interpolation with align_corners=False.
template <typename A>
struct Neighbours {
  int first, second;
  A weight;
  __device__ Neighbours(int y, A scale, int size) {
    const A at = max(scale * (static_cast<A>(y) + A(0.5)) - A(0.5), A(0));
    first = min(static_cast<int>(at), size - 1);
    second = min(first + 1, size - 1);
    weight = at - static_cast<A>(first);
  }
};

}  // namespace
}  // namespace fastfcs::cuda
