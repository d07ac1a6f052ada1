// The host side of the kernels: raw device pointers of contiguous arrays, sizes and a stream in, launches out.
// Every function returns as soon as its kernels are queued, and throws std::runtime_error where one cannot start.
// Results do not depend on the device or on the order in which blocks run: there are no atomics.
#pragma once

#include <cstdint>

#include "launch.h"

namespace fastfcs::cuda {

// x is (batch, channels, height, width), the image (batch, 3, height, width),
// the factors (batch, kFactors, height - 2, width - 2).
struct Shape {
  std::int64_t batch, channels;
  int height, width;
};

// T: float, double.
template <typename T>
void matting_factors(const T* image, T* factors, Shape shape, double eps, Stream stream);

// out = L x. out must not overlap x.
template <typename T>
void matting_matvec(const T* image, const T* factors, const T* x, T* out, Shape shape, Stream stream);

// out = sum_k coefficients[k] T_k(2 L / 9 - I) x, k = 0..order; coefficients on the host; buffers twice as large as x,
// unused for order 0 and 1. None of x, out and buffers may overlap.
template <typename T>
void matting_filter(const T* image, const T* factors, const T* x, const double* coefficients, std::int64_t order,
                    T* out, T* buffers, Shape shape, Stream stream);

// h is (batch, channels, pixels); G = h^T h / n as in gram.h. targets: how many H there are, 1 or batch.
struct Features {
  std::int64_t batch, channels, pixels, targets;
};

// Elements that the functions below need as working memory, of type A.
std::int64_t gram_workspace(Features shape);
std::int64_t gram_correction_workspace(Features shape);
std::int64_t gram_correction_backward_workspace(Features shape);

// T: float, double, or with A = float a half type or Tf32, float32 that tensor cores may round.
template <typename T, typename A>
void gram(const T* h, A* out, A* workspace, Features shape, Stream stream);

template <typename T, typename A>
void gram_correction(const T* h, const A* target, T* out, A* workspace, Features shape, Stream stream);

template <typename T, typename A>
void gram_correction_backward(const T* h, const A* target, const T* grad, T* dh, A* dtarget, A* workspace,
                              Features shape, Stream stream);

}  // namespace fastfcs::cuda
