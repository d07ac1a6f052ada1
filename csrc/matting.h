// Arithmetic of the matting Laplacian (Levin et al. 2008), per window and per pixel, shared by
// every device.
//
//   L = sum_w (I - A_w)
//   A_w(i,j) = 1/9 [1 + (I_i - mu_w)^T (S_w + eps/9 I)^-1 (I_j - mu_w)]
//
// over the windows w of 3x3 pixels. Six numbers are stored per window: the upper triangular K with
// K K^T = (S_w + eps/9 I)^-1. K is computed in double. Rounding K to float costs two digits less
// than rounding the inverse. The mean mu_w is recomputed from the nine pixels, which are loaded in
// any case. A_w p is then the least-squares affine model of p in the window:
//
//   a_w = K (K^T cov_w(I, p)),   b_w = mean_w(p) - a_w . mu_w
//   (L p)_i = n_i p_i - (sum_w a_w) . I_i - sum_w b_w
//
// over the n_i windows that contain pixel i. T is float, double or (on the CPU) a vector of either.
#pragma once

#include <cmath>
#include <cstdint>

#include "macros.h"

namespace fastfcs {

// 1 stores mu_w and loads it instead of recomputing it, to compare the two on a GPU. The operators
// require 0.
#ifndef FASTFCS_MATTING_MEANS
#define FASTFCS_MATTING_MEANS 0
#endif

constexpr int kWindow = 9;  // pixels per window, in row-major order
constexpr int kMiddle = 4;
constexpr bool kStoredMeans = FASTFCS_MATTING_MEANS;
// K_00 K_01 K_02 K_11 K_12 K_22, then mu_0 mu_1 mu_2 if stored
constexpr int kFactors = kStoredMeans ? 9 : 6;

// 0 <= L <= 9: 0 <= I - A_w <= I for every window, and a pixel lies in at most nine windows.
constexpr int kLambdaMax = 9;

// The element type of T: T itself unless T is a vector (specialised in cpu/matting_rows.cpp).
template <typename T>
struct Scalar {
  using type = T;
};
template <typename T>
using scalar_t = typename Scalar<T>::type;

template <typename T>
FASTFCS_HD T square_root(T value) {
  if constexpr (sizeof(T) == sizeof(scalar_t<T>)) {
    return std::sqrt(value);
  } else {
    FASTFCS_UNROLL
    for (size_t i = 0; i < sizeof(T) / sizeof(scalar_t<T>); ++i) value[i] = std::sqrt(value[i]);
    return value;
  }
}

// The factors of one window. image[c][j] is channel c of pixel j. T is double or a vector of it.
template <typename T>
FASTFCS_HD void window_factors(const T (&image)[3][kWindow], double eps, T (&factors)[kFactors]) {
  T centred[3][kWindow];
  FASTFCS_UNROLL
  for (int c = 0; c < 3; ++c) {
    T sum = image[c][0];
    FASTFCS_UNROLL
    for (int j = 1; j < kWindow; ++j) sum = sum + image[c][j];
    const T mean = sum * (1.0 / kWindow);
    if constexpr (kStoredMeans) factors[kFactors - 3 + c] = mean;
    FASTFCS_UNROLL
    for (int j = 0; j < kWindow; ++j) centred[c][j] = image[c][j] - mean;
  }
  T s[3][3];  // the lower triangle of S_w + eps/9 I
  FASTFCS_UNROLL
  for (int c = 0; c < 3; ++c) {
    FASTFCS_UNROLL
    for (int d = 0; d <= c; ++d) {
      T sum = centred[c][0] * centred[d][0];
      FASTFCS_UNROLL
      for (int j = 1; j < kWindow; ++j) sum = sum + centred[c][j] * centred[d][j];
      s[c][d] = sum * (1.0 / kWindow);
    }
    s[c][c] = s[c][c] + eps / kWindow;
  }
  // R R^T = S_w + eps/9 I with R lower triangular. In exact arithmetic every pivot is at least the
  // smallest eigenvalue, hence at least eps/9.
  const T floor = T{} + eps / kWindow;
  const T r00 = square_root(s[0][0] > floor ? s[0][0] : floor);
  const T r10 = s[1][0] / r00;
  const T r20 = s[2][0] / r00;
  const T p11 = s[1][1] - r10 * r10;
  const T r11 = square_root(p11 > floor ? p11 : floor);
  const T r21 = (s[2][1] - r20 * r10) / r11;
  const T p22 = s[2][2] - r20 * r20 - r21 * r21;
  const T r22 = square_root(p22 > floor ? p22 : floor);
  // K = R^-T
  const T k00 = 1.0 / r00;
  const T k11 = 1.0 / r11;
  const T k22 = 1.0 / r22;
  const T k01 = -r10 * k00 * k11;
  const T k12 = -r21 * k11 * k22;
  factors[0] = k00;
  factors[1] = k01;
  factors[2] = -(r20 * k00 + r21 * k01) * k22;
  factors[3] = k11;
  factors[4] = k12;
  factors[5] = k22;
}

// The affine models a_w . I + b_w of C signals in one window. image(d, j) is channel d of the image
// at pixel j of the window, and signal(c, j) likewise.
//
// Both are taken relative to the middle pixel, for three reasons. Differences of neighbours are
// nearly exact, so that rounding errors, which K may amplify 10^4 times, scale with the variation
// and not with the level. A constant signal gives exact zeros. And the means need no second pass.
// Shifting the covariance from the middle pixel to the means loses at most one digit, since a pixel
// is at most sqrt(8) standard deviations from the mean of nine.
template <int C, typename T, typename Image, typename Signal>
FASTFCS_HD void window_models(const T (&factors)[kFactors], Image image, Signal signal,
                              T (&a)[C][3], T (&b)[C]) {
  constexpr scalar_t<T> ninth = scalar_t<T>(1) / kWindow;
  T origin[3], offset[3];  // mu_w = origin + offset
  T middle[C], sum[C], covariance[C][3];
  FASTFCS_UNROLL
  for (int d = 0; d < 3; ++d)
    origin[d] = kStoredMeans ? factors[kFactors - 3 + d] : image(d, kMiddle);
  FASTFCS_UNROLL
  for (int c = 0; c < C; ++c) {
    middle[c] = signal(c, kMiddle);
    covariance[c][0] = covariance[c][1] = covariance[c][2] = T{};
  }
  FASTFCS_UNROLL
  for (int j = 0; j < kWindow; ++j) {
    if (j == kMiddle) continue;
    T colour[3];
    FASTFCS_UNROLL
    for (int d = 0; d < 3; ++d) {
      colour[d] = image(d, j) - origin[d];
      offset[d] = j == 0 ? colour[d] : offset[d] + colour[d];
    }
    FASTFCS_UNROLL
    for (int c = 0; c < C; ++c) {
      const T p = signal(c, j) - middle[c];
      sum[c] = j == 0 ? p : sum[c] + p;
      FASTFCS_UNROLL
      for (int d = 0; d < 3; ++d) covariance[c][d] = covariance[c][d] + colour[d] * p;
    }
  }
  T mean[3];
  FASTFCS_UNROLL
  for (int d = 0; d < 3; ++d) {
    offset[d] = offset[d] * ninth;
    mean[d] = kStoredMeans ? origin[d] : origin[d] + offset[d];
  }
  FASTFCS_UNROLL
  for (int c = 0; c < C; ++c) {
    T* const v = covariance[c];
    if constexpr (!kStoredMeans) {
      FASTFCS_UNROLL
      for (int d = 0; d < 3; ++d) v[d] = v[d] - offset[d] * sum[c];
    }
    const T t0 = factors[0] * v[0];
    const T t1 = factors[1] * v[0] + factors[3] * v[1];
    const T t2 = factors[2] * v[0] + factors[4] * v[1] + factors[5] * v[2];
    a[c][0] = (factors[0] * t0 + factors[1] * t1 + factors[2] * t2) * ninth;
    a[c][1] = (factors[3] * t1 + factors[4] * t2) * ninth;
    a[c][2] = factors[5] * t2 * ninth;
    b[c] = middle[c] + sum[c] * ninth - (a[c][0] * mean[0] + a[c][1] * mean[1] + a[c][2] * mean[2]);
  }
}

// One pass over the image computes L x, or T_1 x, or T_{k+1} x from T_k x and T_{k-1} x.
enum class StepKind { laplacian, chebyshev_first, chebyshev_next };

// (L p)_i from the sums of a_w and b_w over the n_i windows that contain pixel i.
template <typename T>
FASTFCS_HD T laplacian_at(T windows, T p, T a0, T a1, T a2, T b, T i0, T i1, T i2) {
  return windows * p - (a0 * i0 + a1 * i1 + a2 * i2) - b;
}

// The Chebyshev recurrence in 2 L / lambda_max - I: T_1 p from L p and p, and T_{k+1} p from
// L T_k p, T_k p and T_{k-1} p.
template <typename T>
FASTFCS_HD T chebyshev_first(T laplacian, T p) {
  return laplacian * (scalar_t<T>(2) / kLambdaMax) - p;
}

template <typename T>
FASTFCS_HD T chebyshev_next(T laplacian, T current, T previous) {
  return laplacian * (scalar_t<T>(4) / kLambdaMax) - (current + current) - previous;
}

// A step's contribution to the result of a filter:
// sum = [sum] + previous T_{k-1} x + current T_k x + next T_{k+1} x
template <typename T>
struct SumUpdate {
  T* sum;           // null if this step adds nothing
  bool accumulate;  // whether `sum` already holds earlier terms
  T previous, current, next;
};

// The terms of sum_k c[k] T_k x that the step computing T_{k+1} x adds. A step has three terms in
// registers, so only every third step and the last one touch the sum. Every other step saves 8
// bytes per pixel and channel.
template <typename T>
inline SumUpdate<T> sum_update(int64_t k, const double* c, int64_t order, T* sum) {
  if (k % 3 != 1 && k < order - 1) return {};
  const int64_t added = (k + 1) / 3 * 3;  // number of terms that are already in the sum
  const auto term = [=](int64_t i) {
    return i >= added && i <= order ? static_cast<T>(c[i]) : T{};
  };
  return {sum, added > 0, term(k - 1), term(k), term(k + 1)};
}

}  // namespace fastfcs
