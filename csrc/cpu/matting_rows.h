// Inner loops of the matting operators, over rows, compiled once per instruction set. All arrays
// are contiguous.
#pragma once

#include <cstdint>

#include "../matting.h"
#include "isa.h"

namespace fastfcs {

struct Size {
  int64_t height, width;
  int64_t pixels() const { return height * width; }
  int64_t windows() const { return (height - 2) * (width - 2); }
};

// One step on up to three signals x of one image.
//   laplacian        result = L x
//   chebyshev_first  result = T_1 x
//   chebyshev_next   result = T_{k+1} from x = T_k and previous = T_{k-1}, which may be the same
//   array as result
template <typename T>
struct StepArguments {
  Size size;
  const T* image;     // [3, H, W]
  const T* factors;   // [kFactors, H-2, W-2]
  const T* x;         // [channels, H, W]
  const T* previous;  // [channels, H, W]
  int channels;       // 1 to 3
  StepKind kind;
  T* result;  // [channels, H, W]
  SumUpdate<T> update;
};

// Window rows [first, last) of the factors [kFactors, H-2, W-2] of one image [3, H, W].
template <typename T>
using FactorRows = void (*)(Size size, const T* image, double eps, T* factors, int64_t first,
                            int64_t last);

// Pixel rows [first, last) of a step. The values do not depend on how rows are divided into calls.
template <typename T>
using StepRows = void (*)(const StepArguments<T>& step, int64_t first, int64_t last);

#define FASTFCS_DECLARE_ROWS                                                         \
  template <typename T>                                                              \
  void factor_rows(Size size, const T* image, double eps, T* factors, int64_t first, \
                   int64_t last);                                                    \
  template <typename T>                                                              \
  void step_rows(const StepArguments<T>& step, int64_t first, int64_t last);

FASTFCS_FOR_EACH_ISA(FASTFCS_DECLARE_ROWS)
#undef FASTFCS_DECLARE_ROWS

}  // namespace fastfcs
