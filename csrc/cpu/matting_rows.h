// The inner loops of the matting operators, over rows, compiled once for each instruction set. All arrays contiguous.
#pragma once

#include <cstdint>

#include "../matting.h"

namespace fastfcs {

struct Size {
  int64_t height, width;
  int64_t pixels() const { return height * width; }
  int64_t windows() const { return (height - 2) * (width - 2); }
};

// One step of `channels` (1 to 3) signals x of one image.
//   laplacian        result = L x
//   chebyshev_first  result = T_1 x
//   chebyshev_next   result = T_{k+1} from x = T_k and previous = T_{k-1}, which may be the same array
template <typename T>
struct Product {
  Size size;
  const T *image, *factors, *x, *previous;
  int channels;
  Step step;
  T* result;
  Sum<T> sum;
};

// Window rows [first, last) of one image's factors.
template <typename T>
using FactorRows = void (*)(Size size, const T* image, double eps, T* factors, int64_t first, int64_t last);

// Pixel rows [first, last) of a step. Rows do not depend on how they are divided into calls.
template <typename T>
using ProductRows = void (*)(const Product<T>& product, int64_t first, int64_t last);

#define FASTFCS_DECLARE_ROWS                                                                          \
  template <typename T>                                                                               \
  void factor_rows(Size size, const T* image, double eps, T* factors, int64_t first, int64_t last);   \
  template <typename T>                                                                               \
  void product_rows(const Product<T>& product, int64_t first, int64_t last);

namespace plain {
FASTFCS_DECLARE_ROWS
}
namespace avx2 {
FASTFCS_DECLARE_ROWS
}
namespace avx512 {
FASTFCS_DECLARE_ROWS
}
#undef FASTFCS_DECLARE_ROWS

}  // namespace fastfcs
