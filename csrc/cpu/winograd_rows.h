// Inner loops of the 3x3 convolution by Winograd's algorithm F(2x2, 3x3) (Lavin and Gray,
// arXiv:1509.09308), compiled once per instruction set.
//
// Cells of 2x2 outputs take 16 products per input channel in place of 36: the 4x4 inputs of a cell
// and the weights are transformed, multiplied in 16 matrix products, and transformed back.
#pragma once

#include <cstdint>

#include "convolution_weight.h"
#include "isa.h"
#include "pixel_rows.h"

namespace fastfcs {

// Outputs whose weights are transformed together: a multiple of what any instruction set multiplies
// at once.
constexpr int64_t kPanel = 32;
constexpr int64_t kPositions = 16;  // of a transformed cell

struct WinogradConvolution {
  PixelRows<const float> from;  // padded
  PixelRows<float> to;
  const float* weights;  // from transform_weights
  const float* bias;     // of a multiple of kPanel outputs

  int64_t cells_per_row() const { return (to.width + 1) / 2; }
  int64_t cells() const { return (to.height + 1) / 2 * cells_per_row(); }
};

// transform_weights transforms the panels [first, last) for convolve_cells.
// convolve_cells computes the cells [first, last) of batch element b.
#define FASTFCS_DECLARE_ROWS                                                                       \
  void transform_weights(const ConvolutionWeight& weight, int64_t first, int64_t last, float* to); \
  void convolve_cells(const WinogradConvolution& x, int64_t b, int64_t first, int64_t last);

FASTFCS_FOR_EACH_ISA(FASTFCS_DECLARE_ROWS)
#undef FASTFCS_DECLARE_ROWS

}  // namespace fastfcs
