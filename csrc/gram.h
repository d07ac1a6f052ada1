// The Gram matrix and its correction: formulas shared by every device. h is n x c, one row per
// pixel, and G = h^T h / n.
//
//   correction   out = h (G - H)
//   backward     S = h^T g,   dh = g (G - H)^T + h (S + S^T) / n,   dH = -S
//
// The target H is not assumed symmetric. Half types are stored as such and accumulated in float32.
#pragma once

#include "macros.h"

namespace fastfcs {

template <typename T>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <typename T>
using accumulate_t = typename Accumulate<T>::type;

}  // namespace fastfcs
