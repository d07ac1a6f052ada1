// Inner loops of the split convolution, compiled once per instruction set.
//
// A float32 number is the sum of bfloat16 parts: two hold 16 bits of its significand, three all 24.
// Of the products of parts those are computed that matter, and summed in float32 (Henry, Tang and
// Heinecke, arXiv:1904.06376): three of four products, or six of nine.
#pragma once

#include <cstdint>

#include "isa.h"
#include "pixel_rows.h"

namespace fastfcs {

constexpr int64_t kBlock = 16;          // outputs per tile
constexpr int64_t kStep = 32;           // products per tile and output
constexpr int64_t kTileElements = 512;  // bfloat16 per tile

// A weight (outputs, inputs, 3, 3) of any strides, which are in elements.
struct SplitWeight {
  const float* data;
  int64_t outputs, inputs;
  int64_t strides[4];
  int64_t parts;

  int64_t blocks() const { return (outputs + kBlock - 1) / kBlock; }
  // In a row, the channels of three adjacent pixels are 3 * inputs contiguous numbers.
  int64_t steps() const { return (3 * inputs + kStep - 1) / kStep; }
  // The size of a packed block: per row and step, a tile of each part.
  int64_t block_elements() const { return 3 * steps() * parts * kTileElements; }
};

struct SplitConvolution {
  PixelRows<const float> from;  // padded
  SplitWeight weight;
  const uint16_t* packed;
  const float* bias;  // of a multiple of 16 outputs
  PixelRows<float> to;
};

// pack_weights packs the blocks [first, last). convolve_rows computes the rows [first, last) of
// batch element b.
#define FASTFCS_DECLARE_ROWS                                                               \
  void pack_weights(const SplitWeight& weight, int64_t first, int64_t last, uint16_t* to); \
  void convolve_rows(const SplitConvolution& x, int64_t b, int64_t first, int64_t last);

FASTFCS_FOR_EACH_ISA(FASTFCS_DECLARE_ROWS)
#undef FASTFCS_DECLARE_ROWS

}  // namespace fastfcs
