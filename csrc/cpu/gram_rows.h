// The inner loops of the Gram operators, over slices of pixels, compiled once for each instruction set.
#pragma once

#include <cstdint>

#include "../gram.h"

namespace fastfcs {

// Features as they are stored, contiguous: C channels of n pixels. With a second array g, its channels follow h's.
// Channels are counted in fours; those that fill up the last four are zero.
template <typename T>
struct Features {
  int64_t channels, pixels;
  const T *h, *g;
  int64_t outputs() const { return (channels + 3) / 4 * 4; }
  int64_t rows() const { return (g ? 2 : 1) * outputs(); }
  const T* row(int64_t i) const {  // null where it is zero
    const int64_t channel = i < outputs() ? i : i - outputs();
    return channel < channels ? (i < outputs() ? h : g) + channel * pixels : nullptr;
  }
};

// products[j * outputs + i] = sum over the slice of x_i x_j, for i < outputs and j < rows; of h's own (symmetric)
// products only the fours i / 4 <= j / 4.
template <typename T>
using SliceProducts = void (*)(const Features<T>& x, int64_t first, int64_t last, accumulate_t<T>* products);

// result_j = sum_i weights_ij x_i over the slice, for j < channels; weights_ij is weights[(j / 4 * rows + i) * 4 + j % 4].
// With `stream`, AVX-512 writes what needs no conversion past the caches; rows of the result must begin with a line.
template <typename T>
using SliceCombination = void (*)(const Features<T>& x, int64_t first, int64_t last, const accumulate_t<T>* weights,
                                  T* result, bool stream);

#define FASTFCS_DECLARE_ROWS                                                                                       \
  template <typename T>                                                                                            \
  void slice_products(const Features<T>& x, int64_t first, int64_t last, accumulate_t<T>* products);               \
  template <typename T>                                                                                            \
  void slice_combination(const Features<T>& x, int64_t first, int64_t last, const accumulate_t<T>* weights, T* result, \
                         bool stream);

namespace plain {
FASTFCS_DECLARE_ROWS
}
namespace avx2 {
FASTFCS_DECLARE_ROWS
}
namespace avx512 {
FASTFCS_DECLARE_ROWS
}
#undef FASTFCS_DECLARE_ROWS

}  // namespace fastfcs
