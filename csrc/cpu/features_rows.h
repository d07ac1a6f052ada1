// Inner loops of the operators between convolutions, over rows of pixels, compiled once per
// instruction set.
#pragma once

#include <cstdint>

#include "../gram.h"
#include "isa.h"
#include "pixel_rows.h"

namespace fastfcs {

// The operands of one operator, and the slope s(by) for by <= 0.
template <typename T>
struct GateArguments {
  PixelRows<const T> from, by;
  PixelRows<T> to;
  accumulate_t<T> slope;
};

// Each computes the rows [first, last) of batch element b: of the unpadded result. The first two
// write padded results, the others read padded gradients.
template <typename T>
using FeatureRows = void (*)(const GateArguments<T>& x, int64_t b, int64_t first, int64_t last);

#define FASTFCS_DECLARE_ROWS                                                                  \
  template <typename T>                                                                       \
  void gate_rows(const GateArguments<T>& x, int64_t b, int64_t first, int64_t last);          \
  template <typename T>                                                                       \
  void halve_rows(const GateArguments<T>& x, int64_t b, int64_t first, int64_t last);         \
  template <typename T>                                                                       \
  void gate_backward_rows(const GateArguments<T>& x, int64_t b, int64_t first, int64_t last); \
  template <typename T>                                                                       \
  void halve_backward_rows(const GateArguments<T>& x, int64_t b, int64_t first, int64_t last);

FASTFCS_FOR_EACH_ISA(FASTFCS_DECLARE_ROWS)
#undef FASTFCS_DECLARE_ROWS

}  // namespace fastfcs
