// What the operators on features share: their memory, the choice of a type and the division among
// threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "pixel_rows.h"

namespace fastfcs {

template <typename T>
inline PixelRows<T> pixel_rows(const torch::stable::Tensor& tensor, void* data) {
  return {static_cast<T*>(data), tensor.size(1),   tensor.size(2),
          tensor.size(3),        tensor.stride(2), tensor.stride(0)};
}

template <typename T>
inline PixelRows<const T> input_rows(const torch::stable::Tensor& tensor) {
  return pixel_rows<const T>(tensor, const_cast<void*>(tensor.const_data_ptr()));
}

// Calls f(T()) for the dtype of features, which has been checked.
template <typename F>
auto dispatch(const torch::stable::Tensor& features, F f) {
  using torch::headeronly::ScalarType;
  switch (features.scalar_type()) {
    case ScalarType::Double: return f(double());
    case ScalarType::Half: return f(torch::headeronly::Half());
    case ScalarType::BFloat16: return f(torch::headeronly::BFloat16());
    default: return f(float());
  }
}

// Calls f(element, first part, last part) in parallel, covering all parts, which are equally many
// in each of the batch elements [first_element, last_element). `grain` is the least number of parts
// that pays for another thread.
template <typename F>
void for_each_part(int64_t first_element, int64_t last_element, int64_t parts, int64_t grain, F f) {
  torch::stable::parallel_for(first_element * parts, last_element * parts, grain,
                              [&](int64_t first, int64_t last) {
                                for (int64_t b = first / parts; first < last; ++b) {
                                  const int64_t stop = std::min(last, (b + 1) * parts);
                                  f(b, first - b * parts, stop - b * parts);
                                  first = stop;
                                }
                              });
}

}  // namespace fastfcs
