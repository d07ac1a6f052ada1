// Vectors of a convolution's outputs: their weights, and the gate at the end. Compiled once per
// instruction set.
#pragma once

#include "aligned.h"
#include "convert.h"
#include "convolution.h"
#include "vector.h"

namespace fastfcs {
namespace FASTFCS_ISA {
namespace {

constexpr int64_t kLanes = FASTFCS_VECTOR / sizeof(float);

// A weight of adjacent outputs; 0 for those beyond the last.
inline FloatVector weights_at(const ConvolutionWeight<float>& weight, int64_t output, int64_t input,
                              int64_t y, int64_t x) {
  const int64_t outputs = smaller(kLanes, weight.outputs - output);
  float values[kLanes] = {};
  for (int64_t i = 0; i < outputs; ++i) values[i] = weight.at(output + i, input, y, x);
  return load<FloatVector>(values);
}

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

inline FloatVector load_first(const BFloat16* from, int64_t count) {
#ifdef __AVX512BF16__
  const __m256i upper = _mm256_maskz_loadu_epi16((1u << count) - 1, from);
  return FloatVector(_mm512_slli_epi32(_mm512_cvtepu16_epi32(upper), 16));
#else
  float values[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) values[i] = float_of(from[i].x);
  return load<FloatVector>(values);
#endif
}

inline void store_first(BFloat16* to, FloatVector value, int64_t count) {
#ifdef __AVX512BF16__
  _mm256_mask_storeu_epi16(to, (1u << count) - 1, __m256i(_mm512_cvtneps_pbh(__m512(value))));
#else
  float values[kLanes];
  store(values, value);
  for (int64_t i = 0; i < count; ++i) to[i].x = rounded(values[i]);
#endif
}

// Stores s(by) value, where the value itself takes the place of no gates.
template <typename T>
inline void store_gated(T* to, FloatVector value, const T* by, float slope, int64_t count) {
  const FloatVector signs = by ? load_first(by, count) : value;
  store_first(to, signs > 0 ? value : slope * value, count);
}

}  // namespace
}  // namespace FASTFCS_ISA
}  // namespace fastfcs
