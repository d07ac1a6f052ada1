// What the algorithms of the 3x3 convolution in float32 have in common.
#pragma once

#include <cstdint>

#include "pixel_rows.h"

namespace fastfcs {

// Weights are prepared in panels of as many outputs: a multiple of what any algorithm multiplies at
// once.
constexpr int64_t kPanel = 32;

// (outputs, inputs, 3, 3) of any strides, which are in elements.
struct ConvolutionWeight {
  const float* data;
  int64_t outputs, inputs;
  int64_t strides[4];

  float at(int64_t output, int64_t input, int64_t y, int64_t x) const {
    return data[output * strides[0] + input * strides[1] + y * strides[2] + x * strides[3]];
  }
  int64_t panels() const { return (outputs + kPanel - 1) / kPanel; }
};

// The result is multiplied by the slope wherever `by`, or without any the result itself, is not
// positive.
template <typename W>
struct Convolution {
  PixelRows<const float> from;  // padded
  PixelRows<float> to;
  const W* weights;   // prepared by the algorithm
  const float* bias;  // of whole panels
  PixelRows<const float> by;
  float slope;

  // The gates of outputs of a pixel, or null.
  const float* gates(int64_t b, int64_t y, int64_t x, int64_t output) const {
    return by.data ? by.row(b, y) + x * by.channels + output : nullptr;
  }
};

}  // namespace fastfcs
