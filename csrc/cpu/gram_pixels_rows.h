// Inner loops of the Gram operators for features in channels_last memory, that is, for the n x C
// matrix h as it is; compiled once per instruction set.
#pragma once

#include <cstdint>

#include "../gram.h"
#include "isa.h"
#include "pixel_rows.h"

namespace fastfcs {

// Sums the products of the channels over the pixels [first, last):
//   sums[i][j] = sum_p x_pi h_pj,
// where the rows i are the channels of h, if `own`, and then those of g, if g.data is not null.
// sums is [rows, padded_channels] with each array's channels padded. What is beyond the channels is
// undefined, and so are the products of h above the diagonal.
template <typename T>
using PixelProducts = void (*)(const PixelRows<const T>& h, const PixelRows<const T>& g, bool own,
                               int64_t first, int64_t last, accumulate_t<T>* sums);

// The channels, padded to whole vectors of every instruction set and to whole register blocks.
FASTFCS_HD int64_t padded_channels(int64_t channels) { return (channels + 15) / 16 * 16; }

// result = [h | g] W for the pixels [first, last), or h W if g.data is null. W is [rows, channels]
// without padding, the result dense.
template <typename T>
using PixelCombination = void (*)(const PixelRows<const T>& h, const PixelRows<const T>& g,
                                  const accumulate_t<T>* weights, int64_t first, int64_t last,
                                  T* result);

// The rows [first, last) of an image h W + s(h) * enlarge(coarse), each padded by one pixel on the
// left and on the right, and the first and the last row of h repeated. `result` points to the
// padding. The second term is omitted if coarse.data is null.
template <typename T>
using LevelRows = void (*)(const PixelRows<const T>& h, const accumulate_t<T>* weights,
                           const PixelRows<const T>& coarse, accumulate_t<T> slope, int64_t first,
                           int64_t last, T* result);

#define FASTFCS_DECLARE_ROWS                                                                      \
  template <typename T>                                                                           \
  void pixel_products(const PixelRows<const T>& h, const PixelRows<const T>& g, bool own,         \
                      int64_t first, int64_t last, accumulate_t<T>* sums);                        \
  template <typename T>                                                                           \
  void pixel_combination(const PixelRows<const T>& h, const PixelRows<const T>& g,                \
                         const accumulate_t<T>* weights, int64_t first, int64_t last, T* result); \
  template <typename T>                                                                           \
  void level_rows(const PixelRows<const T>& h, const accumulate_t<T>* weights,                    \
                  const PixelRows<const T>& coarse, accumulate_t<T> slope, int64_t first,         \
                  int64_t last, T* result);

FASTFCS_FOR_EACH_ISA(FASTFCS_DECLARE_ROWS)
#undef FASTFCS_DECLARE_ROWS

}  // namespace fastfcs
