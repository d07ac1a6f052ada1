// The weight of a 3x3 convolution.
#pragma once

#include <cstdint>

namespace fastfcs {

// (outputs, inputs, 3, 3) of any strides, which are in elements.
struct ConvolutionWeight {
  const float* data;
  int64_t outputs, inputs;
  int64_t strides[4];

  float at(int64_t output, int64_t input, int64_t y, int64_t x) const {
    return data[output * strides[0] + input * strides[1] + y * strides[2] + x * strides[3]];
  }
  int64_t blocks(int64_t size) const { return (outputs + size - 1) / size; }
};

}  // namespace fastfcs
