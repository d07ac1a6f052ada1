// Host side of the kernels. Functions take raw device pointers of contiguous arrays, sizes and a
// stream. They return as soon as their kernels are queued, and throw std::runtime_error if a kernel
// cannot be launched. Results do not depend on the device or on the order in which blocks run:
// there are no atomics.
#pragma once

#include <cstdint>

#include "launch.h"

namespace fastfcs::cuda {

// B = batch, C = channels, H = height, W = width below.
struct MattingShape {
  int64_t batch, channels;
  int height, width;
};

// T is float or double.
template <typename T>
void matting_factors(const T* image,  // [B, 3, H, W]
                     T* factors,      // [B, kFactors, H-2, W-2]
                     MattingShape shape, double eps, Stream stream);

// out = L x
template <typename T>
void matting_matvec(const T* image,    // [B, 3, H, W]
                    const T* factors,  // [B, kFactors, H-2, W-2]
                    const T* x,        // [B, C, H, W]
                    T* out,            // [B, C, H, W], must not overlap x
                    MattingShape shape, Stream stream);

// out = sum_k coefficients[k] T_k(2 L / 9 - I) x, k = 0..order. x, out and buffers must not
// overlap.
template <typename T>
void matting_filter(const T* image,              // [B, 3, H, W]
                    const T* factors,            // [B, kFactors, H-2, W-2]
                    const T* x,                  // [B, C, H, W]
                    const double* coefficients,  // [order + 1], in host memory
                    int64_t order,
                    T* out,      // [B, C, H, W]
                    T* buffers,  // [2, B, C, H, W], unused for order 0 and 1
                    MattingShape shape, Stream stream);

// B = batch, C = channels, n = pixels below; G = h^T h / n as in gram.h. There is one target H for
// all batch elements or one per element: targets is 1 or batch.
struct GramShape {
  int64_t batch, channels, pixels, targets;
};

// The number of elements of workspace, of type A, that the functions below need.
int64_t gram_workspace(GramShape shape);
int64_t gram_correction_workspace(GramShape shape);
int64_t gram_correction_backward_workspace(GramShape shape);

// (T, A) is (float, float), (double, double), or (a half type or Tf32, float). Tf32 is float32 that
// tensor cores may round.
template <typename T, typename A>
void gram(const T* h,  // [B, C, n]
          A* out,      // [B, C, C]
          A* workspace, GramShape shape, Stream stream);

template <typename T, typename A>
void gram_correction(const T* h,       // [B, C, n]
                     const A* target,  // [targets, C, C]
                     T* out,           // [B, C, n]
                     A* workspace, GramShape shape, Stream stream);

template <typename T, typename A>
void gram_correction_backward(const T* h,       // [B, C, n]
                              const A* target,  // [targets, C, C]
                              const T* grad,    // [B, C, n]
                              T* dh,            // [B, C, n]
                              A* dtarget,       // [targets, C, C]
                              A* workspace, GramShape shape, Stream stream);

}  // namespace fastfcs::cuda
