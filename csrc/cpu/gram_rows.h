// Inner loops of the Gram operators, over slices of pixels, compiled once per instruction set.
#pragma once

#include <cstdint>

#include "../gram.h"
#include "isa.h"

namespace fastfcs {

// A view of contiguous features and the way in which they are divided.
//
// The rows of the products are the channels of h and, if there is a second array g, those of g
// after them. Each array's channels are padded with zero rows to a multiple of four (a quad).
// Products are summed over slices of the pixels (split-K), and a slice is read in equal chunks.
template <typename T>
struct FeatureView {
  int64_t channels, pixels, slices;
  int64_t chunk_pixels, slice_chunks;  // pixels per chunk, chunks of the longest slice
  const T* h;                          // [channels, pixels]
  const T* g;                          // [channels, pixels] or null

  int64_t padded_channels() const { return (channels + 3) / 4 * 4; }
  int64_t rows() const { return (g ? 2 : 1) * padded_channels(); }
  const T* row(int64_t i) const {  // null for a padding row
    const int64_t channel = i < padded_channels() ? i : i - padded_channels();
    return channel < channels ? (i < padded_channels() ? h : g) + channel * pixels : nullptr;
  }
  int64_t slice_begin(int64_t slice) const {
    return slice < slices ? slice * pixels / slices / 16 * 16 : pixels;
  }

  // The copy of a chunk, [rows, copy_stride]. Its rows are 16 elements longer than the chunk's, so
  // that they do not all begin in the same cache sets.
  int64_t copy_stride() const { return chunk_pixels + 16; }
  int64_t copy_size() const { return rows() * copy_stride(); }
};

// Sums the products of rows over each of the slices [first, last):
//   products[slice - first][j][i] = sum_p x_i(p) x_j(p)   for i < padded_channels and j < rows
// Of the symmetric products h_i . h_j only those with i <= j are written. Unless `copies` is null,
// the copies of the chunks are kept there, [last - first, slice_chunks, copy_size].
template <typename T>
using SliceProducts = void (*)(const FeatureView<T>& x, int64_t first, int64_t last,
                               accumulate_t<T>* products, accumulate_t<T>* copies);

// How a result is written.
enum class StorePolicy {
  cached,      // by ordinary stores
  prefetched,  // a cache reads a line before it is written, so a distant line is prefetched
  streaming,   // past the caches (AVX-512), for rows of whole cache lines without conversion
};

// result_j(p) = sum_i weights_ij x_i(p) over the slices [first, last), for j < channels; result is
// [channels, pixels]. weights is [padded_channels / 4, rows, 4]: weights_ij is
// weights[j / 4][i][j % 4]. Unless `copies` is null, reads the kept copies instead of the features.
template <typename T>
using SliceCombination = void (*)(const FeatureView<T>& x, int64_t first, int64_t last,
                                  const accumulate_t<T>* weights, const accumulate_t<T>* copies,
                                  T* result, StorePolicy stores);

#define FASTFCS_DECLARE_ROWS                                                                       \
  template <typename T>                                                                            \
  void slice_products(const FeatureView<T>& x, int64_t first, int64_t last,                        \
                      accumulate_t<T>* products, accumulate_t<T>* copies);                         \
  template <typename T>                                                                            \
  void slice_combination(const FeatureView<T>& x, int64_t first, int64_t last,                     \
                         const accumulate_t<T>* weights, const accumulate_t<T>* copies, T* result, \
                         StorePolicy stores);

FASTFCS_FOR_EACH_ISA(FASTFCS_DECLARE_ROWS)
#undef FASTFCS_DECLARE_ROWS

}  // namespace fastfcs
