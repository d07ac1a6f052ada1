// Inner loops of affine_fit and affine_apply, over rows, compiled once per instruction set.
#pragma once

#include <cstdint>

#include "../affine.h"
#include "../gram.h"
#include "isa.h"

namespace fastfcs {

// Arrays of one batch element are contiguous: planes [channels, H, W].
template <typename T>
struct FitArguments {
  int64_t height, width, radius;
  double eps;
  const T *guide, *signal;  // [3, H, W]
  T* windows;               // [kModel, H, W], the model of the window around each pixel
  T* models;                // [kModel, H, W], their means
};

// An image whose channels lie `channel` elements apart and whose pixels lie `pixel` apart: 1 and 3,
// or H W and 1.
template <typename T>
struct ApplyArguments {
  using A = accumulate_t<T>;
  int64_t height, width, channel, pixel;
  const T* image;
  T* result;
  const A* models;  // [kModel, rows, columns]
  int64_t rows, columns;
};

template <typename T>
using FitRows = void (*)(const FitArguments<T>& x, int64_t first, int64_t last);
template <typename T>
using ApplyRows = void (*)(const ApplyArguments<T>& x, int64_t first, int64_t last);

#define FASTFCS_DECLARE_ROWS                                                     \
  template <typename T>                                                          \
  void window_rows(const FitArguments<T>& x, int64_t first, int64_t last);       \
  template <typename T>                                                          \
  void model_rows(const FitArguments<T>& x, int64_t first, int64_t last);        \
  template <typename T>                                                          \
  void affine_rows(const ApplyArguments<T>& x, int64_t first, int64_t last);

FASTFCS_FOR_EACH_ISA(FASTFCS_DECLARE_ROWS)
#undef FASTFCS_DECLARE_ROWS

}  // namespace fastfcs
