// Inner loops of the 3x3 convolution in tiles of bfloat16, compiled once per instruction set.
//
// A float32 number is split into two bfloat16 parts, which hold 16 bits of its significand. Three
// of the four products of the parts of two numbers are summed in float32, all but the smallest
// (Henry, Tang and Heinecke, arXiv:1904.06376). A bfloat16 number is its own and only part.
#pragma once

#include <cstdint>

#include "convolution.h"
#include "isa.h"

namespace fastfcs {

constexpr int64_t kBlock = 16;  // outputs per tile
template <typename T>
constexpr int64_t kParts = sizeof(T) / 2;
constexpr int64_t kStep = 32;           // products per tile and output
constexpr int64_t kTileElements = 512;  // bfloat16 per tile

// In a row, the channels of three adjacent pixels are 3 * inputs contiguous numbers.
inline int64_t tile_steps(int64_t inputs) { return (3 * inputs + kStep - 1) / kStep; }

// The size of a packed block of outputs: per row and step, a tile of each part.
template <typename T>
inline int64_t block_elements(int64_t inputs) {
  return 3 * tile_steps(inputs) * kParts<T> * kTileElements;
}

template <typename T>
inline int64_t tile_panel_elements(int64_t inputs) {
  return kPanel / kBlock * block_elements<T>(inputs);
}

// pack_weights packs the panels [first, last). convolve_rows computes the rows [first, last) of
// batch element b.
#define FASTFCS_DECLARE_ROWS                                                                     \
  template <typename T>                                                                          \
  void pack_weights(const ConvolutionWeight<T>& weight, int64_t first, int64_t last,             \
                    uint16_t* to);                                                               \
  template <typename T>                                                                          \
  void convolve_rows(const Convolution<T>& x, const uint16_t* weights, int64_t b, int64_t first, \
                     int64_t last);

FASTFCS_FOR_EACH_ISA(FASTFCS_DECLARE_ROWS)
#undef FASTFCS_DECLARE_ROWS

}  // namespace fastfcs
