// The gate at the end of a convolution, compiled once per instruction set.
#pragma once

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "vector.h"

namespace fastfcs {
namespace FASTFCS_ISA {
namespace {

constexpr int64_t kLanes = FASTFCS_VECTOR / sizeof(float);

// The first `count` numbers of a vector, of which no others are touched in memory.
inline FloatVector load_first(const float* from, int64_t count) {
#ifdef __AVX512F__
  return FloatVector(_mm512_maskz_loadu_ps((1u << count) - 1, from));
#else
  if (count == kLanes) return load<FloatVector>(from);
  float values[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) values[i] = from[i];
  return load<FloatVector>(values);
#endif
}

inline void store_first(float* to, FloatVector value, int64_t count) {
#ifdef __AVX512F__
  _mm512_mask_storeu_ps(to, (1u << count) - 1, __m512(value));
#else
  if (count == kLanes) return store(to, value);
  float values[kLanes];
  store(values, value);
  for (int64_t i = 0; i < count; ++i) to[i] = values[i];
#endif
}

// Stores s(by) value, where the value itself takes the place of no gates.
inline void store_gated(float* to, FloatVector value, const float* by, float slope, int64_t count) {
  const FloatVector signs = by ? load_first(by, count) : value;
  store_first(to, signs > 0 ? value : slope * value, count);
}

}  // namespace
}  // namespace FASTFCS_ISA
}  // namespace fastfcs
