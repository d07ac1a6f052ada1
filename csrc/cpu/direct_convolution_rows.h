// Inner loops of the 3x3 convolution by its definition, compiled once per instruction set. With few
// inputs nothing is faster.
#pragma once

#include <cstdint>

#include "convolution.h"
#include "isa.h"

namespace fastfcs {

inline int64_t direct_panel_elements(int64_t inputs) { return 9 * inputs * kPanel; }

// arrange_weights prepares the panels [first, last). convolve_directly computes the rows
// [first, last) of batch element b.
#define FASTFCS_DECLARE_ROWS                                                                \
  void arrange_weights(const ConvolutionWeight<float>& weight, int64_t first, int64_t last, \
                       float* to);                                                          \
  void convolve_directly(const Convolution<float>& x, const float* weights, int64_t b,      \
                         int64_t first, int64_t last);

FASTFCS_FOR_EACH_ISA(FASTFCS_DECLARE_ROWS)
#undef FASTFCS_DECLARE_ROWS

}  // namespace fastfcs
