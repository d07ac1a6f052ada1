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

constexpr int64_t kRowPixels = 1 << 15;  // the least work, in pixels, that is worth another thread

int64_t rows_of(int64_t width) { return std::max<int64_t>(1, kRowPixels / width); }

// An exponent of ones only is an infinity or a NaN. Integer arithmetic, which the compiler vectorises.
template <typename T, typename Bits, Bits exponent>
bool all_finite(const T* values, int64_t n) {
  Bits found = 0;
  for (int64_t i = 0; i < n; ++i) {
    Bits bits;
    std::memcpy(&bits, values + i, sizeof(T));
    found |= Bits((bits & exponent) == exponent);
  }
  return !found;
}

bool all_finite(const float* values, int64_t n) { return all_finite<float, uint32_t, 0x7f800000u>(values, n); }
bool all_finite(const double* values, int64_t n) {
  return all_finite<double, uint64_t, 0x7ff0000000000000u>(values, n);
}

template <typename T>
void check_finite(const char* name, const Tensor& tensor) {
  const T* values = tensor.const_data_ptr<T>();
  std::atomic<bool> finite = true;
  torch::stable::parallel_for(0, tensor.numel(), kRowPixels, [&](int64_t first, int64_t last) {
    if (!all_finite(values + first, last - first)) finite = false;
  });
  if (!finite) refuse_not_finite(name);
}

template <typename T>
void product(const Product<T>& p) {
  static const ProductRows<T> rows = FASTFCS_FOR_ISA(product_rows<T>);
  torch::stable::parallel_for(0, p.size.height, rows_of(p.size.width),
                              [&](int64_t first, int64_t last) { rows(p, first, last); });
}

template <typename T>
void factors_of(const Tensor& image, double eps, Tensor& result) {
  check_finite<T>("image", image);
  static const FactorRows<T> rows = FASTFCS_FOR_ISA(factor_rows<T>);
  const Size size{image.size(2), image.size(3)};
  const T* from = image.const_data_ptr<T>();
  T* to = result.mutable_data_ptr<T>();
  for (int64_t b = 0; b < image.size(0); ++b)
    torch::stable::parallel_for(0, size.height - 2, rows_of(size.width), [&](int64_t first, int64_t last) {
      rows(size, from + b * 3 * size.pixels(), eps, to + b * kFactors * size.windows(), first, last);
    });
}

// to = sum_k c[k] T_k(2 L / 9 - I) x of up to three channels, whose product is p. A step writes T_{k+1} over T_{k-1}.
template <typename T>
void filter(Product<T> p, const std::vector<double>& c, T* to, T* buffers) {
  const int64_t n = p.channels * p.size.pixels(), order = int64_t(c.size()) - 1;
  const T* x = p.x;
  if (order == 0) std::transform(x, x + n, to, [&](T value) { return T(c[0]) * value; });
  for (int64_t k = 0; k < order; ++k) {
    p.step = k == 0 ? Step::chebyshev_first : Step::chebyshev_next;
    p.result = buffers + k % 2 * n;
    p.previous = k == 1 ? x : p.result;
    p.sum = sum_of_step(k, c.data(), order, to);
    product(p);
    p.x = p.result;
  }
}

// L x without coefficients, p(L) x with them.
template <typename T>
void apply(const Tensor& image, const Tensor& factors, const Tensor& x, const std::vector<double>& c, Tensor& result) {
  check_finite<T>("image", image);
  check_finite<T>("x", x);
  const Size size{image.size(2), image.size(3)};
  const int64_t channels = x.size(1), group = std::min<int64_t>(channels, 3);
  T* buffers = nullptr;
  Tensor memory = empty_beside(x, {c.size() > 1 ? 2 * group * size.pixels() : 0}, x.scalar_type());
  if (memory.numel()) buffers = memory.mutable_data_ptr<T>();
  for (int64_t b = 0; b < image.size(0); ++b)
    for (int64_t first = 0; first < channels; first += 3) {
      const int64_t at = (b * channels + first) * size.pixels();
      Product<T> p{};
      p.size = size;
      p.image = image.const_data_ptr<T>() + b * 3 * size.pixels();
      p.factors = factors.const_data_ptr<T>() + b * kFactors * size.windows();
      p.x = x.const_data_ptr<T>() + at;
      p.channels = int(std::min<int64_t>(channels - first, 3));
      p.step = Step::laplacian;
      if (c.empty()) {
        p.result = result.mutable_data_ptr<T>() + at;
        product(p);
      } else {
        filter(p, c, result.mutable_data_ptr<T>() + at, buffers);
      }
    }
}

Tensor apply(const Tensor& image, const Tensor& factors, const Tensor& x, const std::vector<double>& c) {
  check_product(image, factors, x);
  const Tensor i = as_contiguous(image), f = as_contiguous(factors),
               s = as_contiguous(x);
  Tensor result = empty_beside(s, s.sizes().vec(), s.scalar_type());
  if (image.scalar_type() == ScalarType::Double)
    apply<double>(i, f, s, c, result);
  else
    apply<float>(i, f, s, c, result);
  return result;
}

Tensor matting_factors(const Tensor& image, double eps) {
  check_image(image);
  check_eps(eps);
  const Tensor i = as_contiguous(image);
  Tensor result = empty_beside(i, {i.size(0), kFactors, i.size(2) - 2, i.size(3) - 2}, i.scalar_type());
  if (image.scalar_type() == ScalarType::Double)
    factors_of<double>(i, eps, result);
  else
    factors_of<float>(i, eps, result);
  return result;
}

Tensor matting_matvec(const Tensor& image, const Tensor& factors, const Tensor& x) {
  return apply(image, factors, x, {});
}

Tensor matting_filter(const Tensor& image, const Tensor& factors, const Tensor& x, const Tensor& coefficients) {
  check_coefficients(coefficients);
  const Tensor c = as_contiguous(coefficients);
  const double* first = c.const_data_ptr<double>();
  return apply(image, factors, x, std::vector<double>(first, first + c.numel()));
}

}  // namespace
}  // namespace fastfcs

STABLE_TORCH_LIBRARY_IMPL(fastfcs, CPU, library) {
  library.impl("matting_factors", TORCH_BOX(&fastfcs::matting_factors));
  library.impl("matting_matvec", TORCH_BOX(&fastfcs::matting_matvec));
  library.impl("matting_filter", TORCH_BOX(&fastfcs::matting_filter));
}
