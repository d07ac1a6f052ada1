// Inner loops of the 3x3 convolution in tiles of bfloat16, compiled once per instruction set.
//
// A float32 number is split into two bfloat16 parts, which hold 16 bits of its significand. Three
// of the four products of the parts of two numbers are summed in float32, all but the smallest
// (Henry, Tang and Heinecke, arXiv:1904.06376).
#pragma once

#include <cstdint>

#include "convolution.h"
#include "isa.h"

namespace fastfcs {

constexpr int64_t kBlock = 16;  // outputs per tile
constexpr int64_t kParts = 2;
constexpr int64_t kStep = 32;           // products per tile and output
constexpr int64_t kTileElements = 512;  // bfloat16 per tile

using TileConvolution = Convolution<uint16_t>;  // bfloat16

// In a row, the channels of three adjacent pixels are 3 * inputs contiguous numbers.
inline int64_t tile_steps(int64_t inputs) { return (3 * inputs + kStep - 1) / kStep; }

// The size of a packed block of outputs: per row and step, a tile of each part.
inline int64_t block_elements(int64_t inputs) {
  return 3 * tile_steps(inputs) * kParts * kTileElements;
}

inline int64_t tile_panel_elements(int64_t inputs) {
  return kPanel / kBlock * block_elements(inputs);
}

// pack_weights packs the panels [first, last). convolve_rows computes the rows [first, last) of
// batch element b.
#define FASTFCS_DECLARE_ROWS                                                                     \
  void pack_weights(const ConvolutionWeight& weight, int64_t first, int64_t last, uint16_t* to); \
  void convolve_rows(const TileConvolution& x, int64_t b, int64_t first, int64_t last);

FASTFCS_FOR_EACH_ISA(FASTFCS_DECLARE_ROWS)
#undef FASTFCS_DECLARE_ROWS

}  // namespace fastfcs
