// gate, halve and their adjoints on the CPU: one pass over the features each.
#include <algorithm>

#include <torch/csrc/stable/library.h>

#include "../checks.h"
#include "../tensors.h"
#include "features_rows.h"
#include "isa.h"
#include "parallel.h"

namespace fastfcs {
namespace {

constexpr int64_t kGrainElements = 1 << 15;  // the least work that pays for another thread

// Computes a result [B, C, to_height, to_width] in `rows` rows of work per batch element.
template <typename T>
Tensor run(FeatureRows<T> function, const Tensor& from, const Tensor& by, double slope,
           int64_t to_height, int64_t to_width, int64_t rows) {
  const Tensor x = as_pixel_rows(from), gates = as_pixel_rows(by);
  const int64_t batch = by.size(0), channels = by.size(1);
  Tensor result = new_channels_last(by, {batch, channels, to_height, to_width});
  const GateArguments<T> arguments{input_rows<T>(x), input_rows<T>(gates),
                                   pixel_rows<T>(result, result.mutable_data_ptr()),
                                   static_cast<accumulate_t<T>>(slope)};
  const int64_t row_elements =
      std::max<int64_t>(1, by.numel() / std::max<int64_t>(1, batch * rows));
  take_parts(batch, rows, std::max<int64_t>(1, kGrainElements / row_elements),
             [&](int64_t b, int64_t first, int64_t last) { function(arguments, b, first, last); });
  return result;
}

Tensor gate(const Tensor& x, const Tensor& by, double slope) {
  check_like("by", by, "x", x);
  check_slope(slope);
  return dispatch(x, [&](auto t) {
    using T = decltype(t);
    return run<T>(FASTFCS_FOR_ISA(gate_rows<T>), x, by, slope, x.size(2) + 2, x.size(3) + 2,
                  x.size(2));
  });
}

Tensor halve(const Tensor& x, const Tensor& by, double slope) {
  check_like("by", by, "x", x);
  check_slope(slope);
  const int64_t height = halved(x.size(2)), width = halved(x.size(3));
  return dispatch(x, [&](auto t) {
    using T = decltype(t);
    return run<T>(FASTFCS_FOR_ISA(halve_rows<T>), x, by, slope, height + 2, width + 2, height);
  });
}

Tensor gate_backward(const Tensor& grad, const Tensor& by, double slope) {
  check_padded_grad(grad, by, by.size(2), by.size(3));
  check_slope(slope);
  return dispatch(by, [&](auto t) {
    using T = decltype(t);
    return run<T>(FASTFCS_FOR_ISA(gate_backward_rows<T>), grad, by, slope, by.size(2), by.size(3),
                  by.size(2));
  });
}

Tensor halve_backward(const Tensor& grad, const Tensor& by, double slope) {
  check_padded_grad(grad, by, halved(by.size(2)), halved(by.size(3)));
  check_slope(slope);
  return dispatch(by, [&](auto t) {
    using T = decltype(t);
    return run<T>(FASTFCS_FOR_ISA(halve_backward_rows<T>), grad, by, slope, by.size(2), by.size(3),
                  halved(by.size(2)));
  });
}

}  // namespace
}  // namespace fastfcs

STABLE_TORCH_LIBRARY_IMPL(fastfcs, CPU, library) {
  library.impl("gate", TORCH_BOX(&fastfcs::gate));
  library.impl("gate_backward", TORCH_BOX(&fastfcs::gate_backward));
  library.impl("halve", TORCH_BOX(&fastfcs::halve));
  library.impl("halve_backward", TORCH_BOX(&fastfcs::halve_backward));
}
