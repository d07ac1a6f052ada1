// What the operators on features share: their memory, the choice of a type and the division among
// threads.
#pragma once

#include <algorithm>
#include <atomic>
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

// Calls f(element, first part, last part), covering the parts [first, last) of a batch, which are
// equally many in each element.
template <typename F>
void split_at_elements(int64_t first, int64_t last, int64_t parts, F f) {
  for (int64_t b = first / parts; first < last; ++b) {
    const int64_t stop = std::min(last, (b + 1) * parts);
    f(b, first - b * parts, stop - b * parts);
    first = stop;
  }
}

// Calls f(element, first part, last part) in parallel, covering all parts, which are equally many
// in each of the batch elements [first_element, last_element). `grain` is the least number of parts
// that pays for another thread. A thread always gets the same parts.
template <typename F>
void for_each_part(int64_t first_element, int64_t last_element, int64_t parts, int64_t grain, F f) {
  torch::stable::parallel_for(
      first_element * parts, last_element * parts, grain,
      [&](int64_t first, int64_t last) { split_at_elements(first, last, parts, f); });
}

// The same for the elements [0, elements), where a thread that is done with some parts takes more.
// Threads are rarely equally fast: other programs run as well, and cores differ.
template <typename F>
void take_parts(int64_t elements, int64_t parts, int64_t grain, F f) {
  constexpr int64_t turns = 8;  // of a thread, if all are equally fast
  const int64_t size = elements * parts, most = torch::stable::get_num_threads();
  const int64_t threads = std::clamp<int64_t>(size / grain, 1, most);
  const int64_t count = threads == 1 ? size : std::max<int64_t>(1, size / (turns * threads));
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t first; (first = next.fetch_add(count)) < size;)
      split_at_elements(first, std::min(size, first + count), parts, f);
  });
}

}  // namespace fastfcs
