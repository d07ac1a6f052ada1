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
  int64_t first, last;
  __device__ Copies(int64_t y, int64_t size)
      : first(y > 0 ? y + 1 : 0), last(y < size - 1 ? y + 1 : size + 1) {}
};

// Writes channels from c on of pixel (y, x), of an array of height x width, to padded features.
template <typename T, int kVector>
__device__ void store_padded(T* padded, int64_t batch, int64_t y, int64_t x, int64_t c,
                             int64_t height, int64_t width, int64_t channels,
                             const Vector<T, kVector>& values) {
  const Copies rows(y, height), columns(x, width);
  for (int64_t row = rows.first; row <= rows.last; ++row) {
    T* const to = padded + (batch * (height + 2) + row) * (width + 2) * channels + c;
    for (int64_t column = columns.first; column <= columns.last; ++column)
      *reinterpret_cast<Vector<T, kVector>*>(to + column * channels) = values;
  }
}

// The two rows of a coarse array between which row y of an array of `size` rows lies, and the
// weight of the second; columns likewise. Pixels outside are those at the border, as in torch's
// bilinear interpolation with align_corners=False.
template <typename A>
struct Neighbours {
  int64_t first, second;
  A weight;
  __device__ Neighbours(int64_t y, int64_t size, int64_t coarse) {
    const A at =
        max(static_cast<A>(coarse) / static_cast<A>(size) * (static_cast<A>(y) + A(0.5)) - A(0.5),
            A(0));
    first = min(static_cast<int64_t>(at), coarse - 1);
    second = min(first + 1, coarse - 1);
    weight = at - static_cast<A>(first);
  }
};

}  // namespace
}  // namespace fastfcs::cuda
