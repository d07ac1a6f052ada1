// The host functions of csrc/cuda/kernels.h under C names and on the default stream, for ctypes.
// Used by the emulation and by the kernels that benchmarks/kernel_library.py compiles. Each
// function returns null, or the error's message.
//
// The shapes' types are not named here, so that this file also compiles with earlier kernels.
#pragma once

#include <string>

#include "../../csrc/cuda/kernels.h"
#include "../../csrc/cuda/warp_product.h"

namespace {

using namespace fastfcs::cuda;

template <typename Call>
const char* guarded(Call call) {
  static std::string message;
  try {
    call();
    return nullptr;
  } catch (const std::exception& e) {
    message = e.what();
    return message.c_str();
  }
}

}  // namespace

extern "C" {

#define MATTING(T, suffix)                                                                         \
  const char* matting_factors_##suffix(const T* image, T* factors, long batch, long height,        \
                                       long width, double eps) {                                   \
    const int h = static_cast<int>(height), w = static_cast<int>(width);                           \
    return guarded([&] { matting_factors(image, factors, {batch, 3, h, w}, eps, nullptr); });      \
  }                                                                                                \
  const char* matting_matvec_##suffix(const T* image, const T* factors, const T* x, T* out,        \
                                      long batch, long channels, long height, long width) {        \
    const int h = static_cast<int>(height), w = static_cast<int>(width);                           \
    return guarded(                                                                                \
        [&] { matting_matvec(image, factors, x, out, {batch, channels, h, w}, nullptr); });        \
  }                                                                                                \
  const char* matting_filter_##suffix(const T* image, const T* factors, const T* x,                \
                                      const double* c, long order, T* out, T* buffers, long batch, \
                                      long channels, long height, long width) {                    \
    const int h = static_cast<int>(height), w = static_cast<int>(width);                           \
    return guarded([&] {                                                                           \
      matting_filter(image, factors, x, c, order, out, buffers, {batch, channels, h, w}, nullptr); \
    });                                                                                            \
  }
MATTING(float, float32)
MATTING(double, float64)

#define GRAM(T, A, suffix)                                                                         \
  const char* gram_##suffix(const T* h, A* out, A* workspace, long batch, long channels,           \
                            long pixels) {                                                         \
    return guarded([&] { gram(h, out, workspace, {batch, channels, pixels, batch}, nullptr); });   \
  }                                                                                                \
  const char* gram_correction_##suffix(const T* h, const A* target, T* out, A* workspace,          \
                                       long batch, long channels, long pixels, long targets) {     \
    return guarded([&] {                                                                           \
      gram_correction(h, target, out, workspace, {batch, channels, pixels, targets}, nullptr);     \
    });                                                                                            \
  }                                                                                                \
  const char* gram_correction_backward_##suffix(const T* h, const A* target, const T* grad, T* dh, \
                                                A* dtarget, A* workspace, long batch,              \
                                                long channels, long pixels, long targets) {        \
    return guarded([&] {                                                                           \
      gram_correction_backward(h, target, grad, dh, dtarget, workspace,                            \
                               {batch, channels, pixels, targets}, nullptr);                       \
    });                                                                                            \
  }
GRAM(float, float, float32)
GRAM(double, double, float64)
GRAM(Half, float, float16)
GRAM(BFloat16, float, bfloat16)
GRAM(Tf32, float, tf32)

// Elements of workspace that gram (0), its correction (1) and the correction's backward (2) need.
long workspace(int kind, long batch, long channels, long pixels) {
  switch (kind) {
    case 0: return gram_workspace({batch, channels, pixels, batch});
    case 1: return gram_correction_workspace({batch, channels, pixels, batch});
    default: return gram_correction_backward_workspace({batch, channels, pixels, batch});
  }
}

}  // extern "C"
