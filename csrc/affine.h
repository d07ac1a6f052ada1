// Local affine models of a signal in the colours of a guide, shared by every device.
//
// The colour guided filter (He et al. 2013) fits them: in every window w of (2r+1)^2 pixels, those
// beyond the border left out,
//
//   a_w = (S_w + eps I)^-1 cov_w(I, p),   b_w = mean_w(p) - a_w . mu_w
//
// and a pixel's model is the mean of a_w and b_w over the windows that contain it. Twelve numbers
// are stored per pixel: a_0 a_1 a_2 b for each of the three channels of p.
//
// They are applied at another size: enlarged bilinearly, p = a . I + b.
#pragma once

#include <cmath>
#include <cstdint>

#include "macros.h"

namespace fastfcs {

constexpr int kModel = 12;  // numbers per pixel
constexpr int kMoments = 21;  // 3 of I, 3 of p, 6 of I I^T (upper triangle), 9 of p I^T

// Calls f(k, value) for every product of a pixel's colours I and signals p.
template <typename T, typename F>
FASTFCS_HD void for_each_moment(const T (&i)[3], const T (&p)[3], F f) {
  f(0, i[0]), f(1, i[1]), f(2, i[2]);
  f(3, p[0]), f(4, p[1]), f(5, p[2]);
  f(6, i[0] * i[0]), f(7, i[0] * i[1]), f(8, i[0] * i[2]);
  f(9, i[1] * i[1]), f(10, i[1] * i[2]), f(11, i[2] * i[2]);
  FASTFCS_UNROLL
  for (int c = 0; c < 3; ++c) {
    FASTFCS_UNROLL
    for (int d = 0; d < 3; ++d) f(12 + 3 * c + d, p[c] * i[d]);
  }
}

// The model of a window from the means of the products. Colours may be relative to any origin,
// which is then that of the model, too.
template <typename T, typename E>
FASTFCS_HD void fit_model(const T (&mean)[kMoments], E eps, T (&model)[kModel]) {
  const T s00 = mean[6] - mean[0] * mean[0] + eps, s01 = mean[7] - mean[0] * mean[1],
          s02 = mean[8] - mean[0] * mean[2], s11 = mean[9] - mean[1] * mean[1] + eps,
          s12 = mean[10] - mean[1] * mean[2], s22 = mean[11] - mean[2] * mean[2] + eps;
  // L D L^T = S_w + eps I. In exact arithmetic every pivot is at least eps.
  const T floor = T{} + eps;
  const T d0 = s00 > floor ? s00 : floor;
  const T l10 = s01 / d0, l20 = s02 / d0;
  const T p1 = s11 - l10 * s01, d1 = p1 > floor ? p1 : floor;
  const T l21 = (s12 - l20 * s01) / d1;
  const T p2 = s22 - l20 * s02 - l21 * l21 * d1, d2 = p2 > floor ? p2 : floor;
  FASTFCS_UNROLL
  for (int c = 0; c < 3; ++c) {
    const T y0 = mean[12 + 3 * c] - mean[3 + c] * mean[0];
    const T y1 = mean[13 + 3 * c] - mean[3 + c] * mean[1] - l10 * y0;
    const T y2 = mean[14 + 3 * c] - mean[3 + c] * mean[2] - l20 * y0 - l21 * y1;
    const T a2 = y2 / d2, a1 = y1 / d1 - l21 * a2, a0 = y0 / d0 - l10 * a1 - l20 * a2;
    model[4 * c] = a0;
    model[4 * c + 1] = a1;
    model[4 * c + 2] = a2;
    model[4 * c + 3] = mean[3 + c] - a0 * mean[0] - a1 * mean[1] - a2 * mean[2];
  }
}

// The two small pixels between which a large one lies, as torch's bilinear interpolation with
// unaligned corners places them, and the weight of the second.
struct Between {
  int64_t first, second;
  double weight;
};

FASTFCS_HD Between between(int64_t at, int64_t small, int64_t large) {
  const double position = (double(at) + 0.5) * double(small) / double(large) - 0.5;
  const double clamped = position > 0 ? position : 0;
  const int64_t whole = int64_t(clamped), first = whole < small - 1 ? whole : small - 1;
  return {first, first + 1 < small ? first + 1 : first, clamped - double(first)};
}

// Soft clipping of integer samples, as fastfcs.constraints.SoftClip defines it: below a quarter of
// the content's value, m, a value v becomes m exp(v / m - 1), and likewise below the largest.
constexpr float kToe = 0.25f;

}  // namespace fastfcs
