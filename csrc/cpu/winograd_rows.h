// Inner loops of the 3x3 convolution by Winograd's algorithm F(2x2, 3x3) (Lavin and Gray,
// arXiv:1509.09308), compiled once per instruction set.
//
// Cells of 2x2 outputs take 16 products per input channel in place of 36: the 4x4 inputs of a cell
// and the weights are transformed, multiplied in 16 matrix products, and transformed back.
#pragma once

#include <cstdint>

#include "convolution.h"
#include "isa.h"

namespace fastfcs {

constexpr int64_t kPositions = 16;  // of a transformed cell

inline int64_t winograd_panel_elements(int64_t inputs) { return kPositions * inputs * kPanel; }

// The number of cells of a row, and of all.
inline int64_t cells_per_row(int64_t width) { return (width + 1) / 2; }
inline int64_t cells(int64_t height, int64_t width) {
  return (height + 1) / 2 * cells_per_row(width);
}

// transform_weights transforms the panels [first, last) for convolve_cells.
// convolve_cells computes the cells [first, last) of batch element b.
#define FASTFCS_DECLARE_ROWS                                                                       \
  void transform_weights(const ConvolutionWeight<float>& weight, int64_t first, int64_t last,      \
                         float* to);                                                               \
  void convolve_cells(const Convolution<float>& x, const float* weights, int64_t b, int64_t first, \
                      int64_t last);

FASTFCS_FOR_EACH_ISA(FASTFCS_DECLARE_ROWS)
#undef FASTFCS_DECLARE_ROWS

}  // namespace fastfcs
