// More of csrc/cuda/kernels.h under C names: channels_last features. Apart from functions.h, which
// also compiles with earlier kernels.
#pragma once

#include "functions.h"

extern "C" {

#define PASS(T, suffix, name)                                                                     \
  const char* name##_##suffix(const T* x, const T* by, T* out, long batch, long channels,         \
                              long height, long width, long x_row, long x_batch, long by_row,     \
                              long by_batch, double slope) {                                      \
    return guarded([&] {                                                                          \
      name(PixelRows<T>{x, x_row, x_batch}, PixelRows<T>{by, by_row, by_batch}, out,              \
           {batch, channels, static_cast<int>(height), static_cast<int>(width)}, slope, nullptr); \
    });                                                                                           \
  }
#define PASSES(T, suffix)        \
  PASS(T, suffix, gate)          \
  PASS(T, suffix, gate_backward) \
  PASS(T, suffix, halve)         \
  PASS(T, suffix, halve_backward)
PASSES(float, float32)
PASSES(double, float64)
PASSES(Half, float16)
PASSES(BFloat16, bfloat16)

#define LEVEL(T, A, suffix)                                                                       \
  const char* level_gradient_##suffix(const T* h, const A* weights, const T* coarse, T* out,      \
                                      long batch, long channels, long height, long width,         \
                                      long matrices, double slope) {                              \
    return guarded([&] {                                                                          \
      level_gradient(h, weights, coarse, out,                                                     \
                     {batch, channels, static_cast<int>(height), static_cast<int>(width)},        \
                     matrices, slope, nullptr);                                                   \
    });                                                                                           \
  }                                                                                               \
  const char* cross_gram_##suffix(const T* h, const T* g, A* out, A* workspace, long batch,       \
                                  long channels, long pixels, long last) {                        \
    return guarded([&] {                                                                          \
      cross_gram(h, g, out, workspace, {batch, channels, pixels, batch, Layout(last)}, nullptr);  \
    });                                                                                           \
  }                                                                                               \
  const char* gram_last_##suffix(const T* h, A* out, A* workspace, long batch, long channels,     \
                                 long pixels) {                                                   \
    return guarded([&] {                                                                          \
      gram(h, out, workspace, {batch, channels, pixels, batch, Layout::channels_last}, nullptr);  \
    });                                                                                           \
  }                                                                                               \
  const char* gram_correction_last_##suffix(const T* h, const A* target, T* out, A* workspace,    \
                                            long batch, long channels, long pixels,               \
                                            long targets) {                                       \
    return guarded([&] {                                                                          \
      gram_correction(h, target, out, workspace,                                                  \
                      {batch, channels, pixels, targets, Layout::channels_last}, nullptr);        \
    });                                                                                           \
  }                                                                                               \
  const char* gram_correction_backward_last_##suffix(const T* h, const A* target, const T* grad,  \
                                                     T* dh, A* dtarget, A* workspace, long batch, \
                                                     long channels, long pixels, long targets) {  \
    return guarded([&] {                                                                          \
      gram_correction_backward(h, target, grad, dh, dtarget, workspace,                           \
                               {batch, channels, pixels, targets, Layout::channels_last},         \
                               nullptr);                                                          \
    });                                                                                           \
  }
LEVEL(float, float, float32)
LEVEL(double, double, float64)
LEVEL(Half, float, float16)
LEVEL(BFloat16, float, bfloat16)
LEVEL(Tf32, float, tf32)

long cross_gram_elements(long batch, long channels, long pixels) {
  return cross_gram_workspace({batch, channels, pixels, batch});
}

#define AFFINE_FIT(T, suffix)                                                                     \
  const char* affine_fit_##suffix(const T* guide, const T* signal, T* windows, T* models,         \
                                  long batch, long height, long width, long radius, double eps) { \
    const int h = static_cast<int>(height), w = static_cast<int>(width);                          \
    return guarded([&] {                                                                          \
      affine_fit(guide, signal, windows, models, {batch, 3, h, w}, radius, eps, nullptr);         \
    });                                                                                           \
  }
AFFINE_FIT(float, float32)
AFFINE_FIT(double, float64)

#define AFFINE_APPLY(T, A, suffix)                                                              \
  const char* affine_apply_##suffix(const T* image, const A* models, T* out, long batch,        \
                                    long height, long width, long interleaved, long rows,       \
                                    long columns) {                                             \
    const int h = static_cast<int>(height), w = static_cast<int>(width);                        \
    return guarded([&] {                                                                        \
      affine_apply(image, models, out, {batch, h, w, interleaved != 0}, static_cast<int>(rows), \
                   static_cast<int>(columns), nullptr);                                         \
    });                                                                                         \
  }
AFFINE_APPLY(uint8_t, float, uint8)
AFFINE_APPLY(uint16_t, float, uint16)
AFFINE_APPLY(float, float, float32)
AFFINE_APPLY(double, double, float64)

}  // extern "C"
