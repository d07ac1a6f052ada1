// Conversion of arrays between the dtypes of features and those of their arithmetic, compiled once
// per instruction set (vector.h).
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif

#include "vector.h"

namespace fastfcs {
namespace FASTFCS_ISA {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

inline void convert(const float* from, float* to, int64_t count) {
  std::memcpy(to, from, count * sizeof(float));
}
inline void convert(const double* from, double* to, int64_t count) {
  std::memcpy(to, from, count * sizeof(double));
}

inline float float_of(uint16_t bfloat16) {
  const uint32_t bits = uint32_t(bfloat16) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint16_t rounded(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;     // ties to even
  return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : uint16_t(nearest);  // NaN stays NaN
}

inline void convert(const BFloat16* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = float_of(from[i].x);
}

inline void convert(const float* from, BFloat16* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i].x = rounded(from[i]);
}

#ifdef __F16C__
inline void convert(const Half* from, float* to, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) _mm256_storeu_ps(to + i, _mm256_cvtph_ps(load<__m128i>(from + i)));
  for (; i < count; ++i) to[i] = _cvtsh_ss(from[i].x);
}

inline void convert(const float* from, Half* to, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    store(to + i, _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
  for (; i < count; ++i) to[i].x = _cvtss_sh(from[i], _MM_FROUND_TO_NEAREST_INT);
}
#else
inline void convert(const Half* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}

inline void convert(const float* from, Half* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}
#endif

}  // namespace
}  // namespace FASTFCS_ISA
}  // namespace fastfcs
