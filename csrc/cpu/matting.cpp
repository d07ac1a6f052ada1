// matting_factors, matting_matvec and matting_filter on the CPU.
#include <algorithm>
#include <atomic>
#include <cstring>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../checks.h"
#include "../tensors.h"
#include "isa.h"
#include "matting_rows.h"

namespace fastfcs {
namespace {

constexpr int64_t kGrainPixels = 1 << 15;  // the least work that pays for another thread

int64_t grain_rows(int64_t width) { return std::max<int64_t>(1, kGrainPixels / width); }

// An infinity or a NaN has all exponent bits set. Integer arithmetic lets the compiler vectorise.
template <typename T, typename Bits, Bits exponent>
bool all_finite(const T* values, int64_t n) {
  Bits not_finite = 0;
  for (int64_t i = 0; i < n; ++i) {
    Bits bits;
    std::memcpy(&bits, values + i, sizeof(T));
    not_finite |= Bits((bits & exponent) == exponent);
  }
  return !not_finite;
}

bool all_finite(const float* values, int64_t n) {
  return all_finite<float, uint32_t, 0x7f800000u>(values, n);
}
bool all_finite(const double* values, int64_t n) {
  return all_finite<double, uint64_t, 0x7ff0000000000000u>(values, n);
}

template <typename T>
void check_finite(const char* name, const Tensor& tensor) {
  const T* values = tensor.const_data_ptr<T>();
  std::atomic<bool> finite = true;
  torch::stable::parallel_for(0, tensor.numel(), kGrainPixels, [&](int64_t first, int64_t last) {
    if (!all_finite(values + first, last - first)) finite = false;
  });
  if (!finite) raise_not_finite(name);
}

template <typename T>
void run_step(const StepArguments<T>& step) {
  static const StepRows<T> rows = FASTFCS_FOR_ISA(step_rows<T>);
  torch::stable::parallel_for(0, step.size.height, grain_rows(step.size.width),
                              [&](int64_t first, int64_t last) { rows(step, first, last); });
}

template <typename T>
void compute_factors(const Tensor& image, double eps, Tensor& result) {
  check_finite<T>("image", image);
  static const FactorRows<T> rows = FASTFCS_FOR_ISA(factor_rows<T>);
  const Size size{image.size(2), image.size(3)};
  const T* from = image.const_data_ptr<T>();
  T* to = result.mutable_data_ptr<T>();
  for (int64_t b = 0; b < image.size(0); ++b)
    torch::stable::parallel_for(0, size.height - 2, grain_rows(size.width),
                                [&](int64_t first, int64_t last) {
                                  rows(size, from + b * 3 * size.pixels(), eps,
                                       to + b * kFactors * size.windows(), first, last);
                                });
}

// to = sum_k c[k] T_k(2 L / 9 - I) x for the up to three channels of `step`. `to` is
// [channels, H, W], `buffers` twice as large. Each step writes T_{k+1} over T_{k-1}.
template <typename T>
void run_filter(StepArguments<T> step, const std::vector<double>& c, T* to, T* buffers) {
  const int64_t n = step.channels * step.size.pixels(), order = int64_t(c.size()) - 1;
  const T* x = step.x;
  if (order == 0) std::transform(x, x + n, to, [&](T value) { return T(c[0]) * value; });
  for (int64_t k = 0; k < order; ++k) {
    step.kind = k == 0 ? StepKind::chebyshev_first : StepKind::chebyshev_next;
    step.result = buffers + k % 2 * n;
    step.previous = k == 1 ? x : step.result;
    step.update = sum_update(k, c.data(), order, to);
    run_step(step);
    step.x = step.result;
  }
}

// result = L x if there are no coefficients, else p(L) x; all tensors are contiguous.
template <typename T>
void multiply_batch(const Tensor& image, const Tensor& factors, const Tensor& x,
                    const std::vector<double>& c, Tensor& result) {
  check_finite<T>("image", image);
  check_finite<T>("x", x);
  const Size size{image.size(2), image.size(3)};
  const int64_t channels = x.size(1), group = std::min<int64_t>(channels, 3);
  T* buffers = nullptr;
  Tensor memory = new_empty(x, {c.size() > 1 ? 2 * group * size.pixels() : 0}, x.scalar_type());
  if (memory.numel()) buffers = memory.mutable_data_ptr<T>();
  for (int64_t b = 0; b < image.size(0); ++b)
    for (int64_t first = 0; first < channels; first += 3) {
      const int64_t at = (b * channels + first) * size.pixels();
      StepArguments<T> step{};
      step.size = size;
      step.image = image.const_data_ptr<T>() + b * 3 * size.pixels();
      step.factors = factors.const_data_ptr<T>() + b * kFactors * size.windows();
      step.x = x.const_data_ptr<T>() + at;
      step.channels = int(std::min<int64_t>(channels - first, 3));
      step.kind = StepKind::laplacian;
      if (c.empty()) {
        step.result = result.mutable_data_ptr<T>() + at;
        run_step(step);
      } else {
        run_filter(step, c, result.mutable_data_ptr<T>() + at, buffers);
      }
    }
}

Tensor multiply(const Tensor& image, const Tensor& factors, const Tensor& x,
                const std::vector<double>& c) {
  check_product(image, factors, x);
  const Tensor i = as_contiguous(image), f = as_contiguous(factors), s = as_contiguous(x);
  Tensor result = new_empty(s, s.sizes().vec(), s.scalar_type());
  if (image.scalar_type() == ScalarType::Double)
    multiply_batch<double>(i, f, s, c, result);
  else
    multiply_batch<float>(i, f, s, c, result);
  return result;
}

Tensor matting_factors(const Tensor& image, double eps) {
  check_image(image);
  check_eps(eps);
  const Tensor i = as_contiguous(image);
  Tensor result =
      new_empty(i, {i.size(0), kFactors, i.size(2) - 2, i.size(3) - 2}, i.scalar_type());
  if (image.scalar_type() == ScalarType::Double)
    compute_factors<double>(i, eps, result);
  else
    compute_factors<float>(i, eps, result);
  return result;
}

Tensor matting_matvec(const Tensor& image, const Tensor& factors, const Tensor& x) {
  return multiply(image, factors, x, {});
}

Tensor matting_filter(const Tensor& image, const Tensor& factors, const Tensor& x,
                      const Tensor& coefficients) {
  check_coefficients(coefficients);
  const Tensor c = as_contiguous(coefficients);
  const double* first = c.const_data_ptr<double>();
  return multiply(image, factors, x, std::vector<double>(first, first + c.numel()));
}

}  // namespace
}  // namespace fastfcs

STABLE_TORCH_LIBRARY_IMPL(fastfcs, CPU, library) {
  library.impl("matting_factors", TORCH_BOX(&fastfcs::matting_factors));
  library.impl("matting_matvec", TORCH_BOX(&fastfcs::matting_matvec));
  library.impl("matting_filter", TORCH_BOX(&fastfcs::matting_filter));
}
