// The inner loops of the Gram operators, over slices of pixels, compiled once for each instruction set.
#pragma once

#include <cstdint>

#include "../gram.h"

namespace fastfcs {

// Features as they are stored, contiguous: C channels of n pixels. With a second array g, its channels follow h's.
// Channels are counted in fours; those that fill up the last four are zero. Products are summed over slices of the
// pixels, and a slice is read in equal chunks.
template <typename T>
struct Features {
  int64_t channels, pixels, slices;
  int64_t chunk, chunks;  // pixels of a chunk, chunks of the longest slice
  const T *h, *g;

  int64_t outputs() const { return (channels + 3) / 4 * 4; }
  int64_t rows() const { return (g ? 2 : 1) * outputs(); }
  const T* row(int64_t i) const {  // null where it is zero
    const int64_t channel = i < outputs() ? i : i - outputs();
    return channel < channels ? (i < outputs() ? h : g) + channel * pixels : nullptr;
  }
  int64_t start(int64_t slice) const { return slice < slices ? slice * pixels / slices / 16 * 16 : pixels; }

  // The copy of a chunk: a row is 16 elements longer, so that rows do not begin in the same cache sets.
  int64_t stride() const { return chunk + 16; }
  int64_t copy() const { return rows() * stride(); }
};

// products[j * outputs + i] = sum of x_i x_j over a slice, for i < outputs and j < rows; of h's own (symmetric)
// products only i <= j. The products of the slices from `first` to `last` follow each other, and so do, unless `copies`
// is null, the copies of their chunks, which are kept there: x.chunks for each slice.
template <typename T>
using SliceProducts = void (*)(const Features<T>& x, int64_t first, int64_t last, accumulate_t<T>* products,
                               accumulate_t<T>* copies);

// How a result is written. A cache reads a line before it is written to; if the line is far away, it is better fetched
// some time before. AVX-512 can also write whole lines past the caches, if rows begin with a line and nothing is
// converted.
enum class Stores { cached, fetched, past_caches };

// result_j = sum_i weights_ij x_i for j < channels, over the slices from `first` to `last`; weights_ij is
// weights[(j / 4 * rows + i) * 4 + j % 4]. Reads the copies that were kept instead of h, unless `copies` is null.
template <typename T>
using SliceCombination = void (*)(const Features<T>& x, int64_t first, int64_t last, const accumulate_t<T>* weights,
                                  const accumulate_t<T>* copies, T* result, Stores stores);

#define FASTFCS_DECLARE_ROWS                                                                                        \
  template <typename T>                                                                                             \
  void slice_products(const Features<T>& x, int64_t first, int64_t last, accumulate_t<T>* products,                 \
                      accumulate_t<T>* copies);                                                                     \
  template <typename T>                                                                                             \
  void slice_combination(const Features<T>& x, int64_t first, int64_t last, const accumulate_t<T>* weights,         \
                         const accumulate_t<T>* copies, T* result, Stores stores);

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
