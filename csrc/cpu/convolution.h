// What the algorithms of the 3x3 convolution have in common.
#pragma once

#include <cstdint>

#include "pixel_rows.h"

namespace fastfcs {

// Weights are prepared in panels of as many outputs: a multiple of what any algorithm multiplies at
// once.
constexpr int64_t kPanel = 32;

// (outputs, inputs, 3, 3) of any strides, which are in elements.
template <typename T>
struct ConvolutionWeight {
  const T* data;
  int64_t outputs, inputs;
  int64_t strides[4];

  T at(int64_t output, int64_t input, int64_t y, int64_t x) const {
    return data[output * strides[0] + input * strides[1] + y * strides[2] + x * strides[3]];
  }
  int64_t panels() const { return (outputs + kPanel - 1) / kPanel; }
};

// The result is multiplied by the slope wherever `by`, or without any the result itself, is not
// positive.
template <typename T>
struct Convolution {
  PixelRows<const T> from;  // padded
  PixelRows<T> to;
  const float* bias;  // of whole panels
  PixelRows<const T> by;
  float slope;

  // The gates of outputs of a pixel, or null.
  const T* gates(int64_t b, int64_t y, int64_t x, int64_t output) const {
    return by.data ? by.row(b, y) + x * by.channels + output : nullptr;
  }
};

}  // namespace fastfcs
