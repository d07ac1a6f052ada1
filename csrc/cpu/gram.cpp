// gram, gram_correction and its backward on the CPU.
//
// h is read once for its products and once to be combined, the result written once; nothing else is as large as h.
// Products are summed in slices of pixels, and these in their order, so that no bit depends on the number of threads.
#include <algorithm>
#include <memory>
#include <utility>

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "../checks.h"
#include "../tensors.h"
#include "gram_rows.h"
#include "isa.h"

namespace fastfcs {
namespace {

// A power of two of equal slices, which threads share evenly, 64 at most. Each has its own products, `rows` per channel,
// and copies its first chunk with nothing to compute meanwhile, so that it must have enough pixels to be worth both.
int64_t slices_of(int64_t pixels, int64_t rows) {
  int64_t count = 1;
  while (count < 64 && pixels / (2 * count) >= std::max<int64_t>(2048, 4 * rows)) count *= 2;
  return count;
}

// What the operators read, contiguous, element after element of the batch.
template <typename T>
struct Batch {
  using A = accumulate_t<T>;
  Tensor h, g;
  int64_t size, channels, pixels;
  bool has_g;

  Batch(const Tensor& h, const Tensor* grad)
      : h(as_contiguous(h)),
        g(grad ? as_contiguous(*grad) : this->h),
        size(h.size(0)),
        channels(h.size(1)),
        pixels(h.size(2) * h.size(3)),
        has_g(grad) {}

  Features<T> operator[](int64_t b) const {
    const int64_t at = b * channels * pixels;
    const T* from = static_cast<const T*>(h.const_data_ptr()) + at;
    return {channels, pixels, from, has_g ? static_cast<const T*>(g.const_data_ptr()) + at : nullptr};
  }

  int64_t slices() const { return slices_of(pixels, (*this)[0].rows()); }

  // f(b, slice, first pixel, last pixel) for every slice of the batch.
  template <typename F>
  void each_slice(F f) const {
    const int64_t slices = this->slices();
    const auto start = [&](int64_t slice) { return slice < slices ? slice * pixels / slices / 16 * 16 : pixels; };
    torch::stable::parallel_for(0, size * slices, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) f(i / slices, i % slices, start(i % slices), start(i % slices + 1));
    });
  }
};

// x_i . x_j over all pixels, for one element of the batch.
template <typename A>
struct Products {
  const A* sums;
  int64_t outputs;
  A own(int64_t i, int64_t j) const { return sums[std::max(i, j) * outputs + std::min(i, j)]; }  // h_i . h_j
  A across(int64_t i, int64_t j) const { return sums[(outputs + j) * outputs + i]; }            // h_i . g_j
};

template <typename T>
class AllProducts {
  using A = accumulate_t<T>;

 public:
  explicit AllProducts(const Batch<T>& batch)
      : outputs_(batch[0].outputs()),
        rows_(batch[0].rows()),
        slices_(batch.slices()),
        sums_(new A[batch.size * slices_ * outputs_ * rows_]) {
    static const SliceProducts<T> products = FASTFCS_FOR_ISA(slice_products<T>);
    batch.each_slice([&](int64_t b, int64_t slice, int64_t first, int64_t last) {
      products(batch[b], first, last, at(b, slice));
    });
    torch::stable::parallel_for(0, batch.size * rows_, 64, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        const int64_t b = row / rows_, j = row % rows_, wanted = std::min(j / 4 * 4 + 4, outputs_);
        for (int64_t slice = 1; slice < slices_; ++slice) {
          A* sum = at(b, 0) + j * outputs_;
          const A* more = at(b, slice) + j * outputs_;
          for (int64_t i = 0; i < wanted; ++i) sum[i] += more[i];
        }
      }
    });
  }

  Products<A> operator[](int64_t b) const { return {at(b, 0), outputs_}; }

 private:
  A* at(int64_t b, int64_t slice) const { return sums_.get() + (b * slices_ + slice) * outputs_ * rows_; }

  int64_t outputs_, rows_, slices_;
  std::unique_ptr<A[]> sums_;
};

// H of every element of the batch.
template <typename A>
struct Target {
  Tensor target;
  const A* data;  // asking for it takes longer than what is done with an element
  int64_t stride;
  explicit Target(const Tensor& t)
      : target(as_contiguous(t)),
        data(target.const_data_ptr<A>()),
        stride(t.size(0) == 1 ? 0 : t.size(1) * t.size(2)) {}
  const A* operator[](int64_t b) const { return data + b * stride; }
};

// Whether the result is written past the caches, which then need not fetch lines only to have them overwritten. An Intel
// CPU gains by it once the caches cannot hold the result; an AMD one loses where the memory was in use before. Such stores
// write whole lines, so every row must begin with one.
inline bool past_caches(const Tensor& result) {
#ifdef __x86_64__
  static const bool intel = __builtin_cpu_is("intel");
  constexpr int64_t large = 32 << 20, line = 64;
  return intel && result.numel() * result.element_size() >= large &&
         result.size(2) * result.size(3) * result.element_size() % line == 0 &&
         reinterpret_cast<uintptr_t>(result.const_data_ptr()) % line == 0;
#else
  return false;
#endif
}

// The combination of x with weight(b, i, j), i counting h's channels and then g's.
template <typename T, typename Weight>
Tensor combined(const Batch<T>& batch, Weight weight) {
  using A = accumulate_t<T>;
  static const SliceCombination<T> combination = FASTFCS_FOR_ISA(slice_combination<T>);
  const int64_t c = batch.channels, outputs = batch[0].outputs(), rows = batch[0].rows();
  const std::unique_ptr<A[]> weights(new A[batch.size * outputs * rows]);
  torch::stable::parallel_for(0, batch.size * outputs / 4, 1 + 4096 / rows, [&](int64_t first, int64_t last) {
    for (int64_t four = first; four < last; ++four)
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t k = 0; k < 4; ++k) {
          const int64_t b = four / (outputs / 4), j = four % (outputs / 4) * 4 + k;
          const bool of_h = row < outputs;
          const int64_t i = of_h ? row : row - outputs;
          weights[(four * rows + row) * 4 + k] = i < c && j < c ? weight(b, of_h ? i : c + i, j) : A(0);
        }
  });
  Tensor result = empty_beside(batch.h, batch.h.sizes().vec(), batch.h.scalar_type());
  T* const to = static_cast<T*>(result.mutable_data_ptr());
  const bool stream = past_caches(result);
  batch.each_slice([&](int64_t b, int64_t, int64_t first, int64_t last) {
    combination(batch[b], first, last, weights.get() + b * outputs * rows, to + b * c * batch.pixels, stream);
  });
  return result;
}

template <typename T>
Tensor gram_of(const Tensor& h) {
  using A = accumulate_t<T>;
  const Batch<T> batch(h, nullptr);
  const AllProducts<T> products(batch);
  const int64_t c = batch.channels;
  Tensor result = empty_beside(h, {batch.size, c, c}, gram_dtype(h));
  A* to = result.mutable_data_ptr<A>();
  for (int64_t b = 0; b < batch.size; ++b)
    for (int64_t i = 0; i < c; ++i)
      for (int64_t j = 0; j < c; ++j) *to++ = products[b].own(i, j) / A(batch.pixels);
  return result;
}

template <typename T>
Tensor correction_of(const Tensor& h, const Tensor& target) {
  using A = accumulate_t<T>;
  const Batch<T> batch(h, nullptr);
  const AllProducts<T> products(batch);
  const Target<A> targets(target);
  return combined(batch, [&](int64_t b, int64_t i, int64_t j) {
    return products[b].own(i, j) / A(batch.pixels) - targets[b][i * batch.channels + j];
  });
}

template <typename T>
std::tuple<Tensor, Tensor> backward_of(const Tensor& h, const Tensor& target, const Tensor& grad) {
  using A = accumulate_t<T>;
  const Batch<T> batch(h, &grad);
  const AllProducts<T> products(batch);
  const Target<A> targets(target);
  const int64_t c = batch.channels;
  const A n = A(batch.pixels);
  const Tensor dh = combined(batch, [&](int64_t b, int64_t i, int64_t j) {
    if (i < c) return (products[b].across(i, j) + products[b].across(j, i)) / n;
    return products[b].own(j, i - c) / n - targets[b][j * c + i - c];
  });
  Tensor dtarget = empty_beside(h, {target.size(0), c, c}, gram_dtype(h));
  A* const to = dtarget.mutable_data_ptr<A>();
  std::fill(to, to + dtarget.numel(), A(0));
  for (int64_t b = 0; b < batch.size; ++b)
    for (int64_t i = 0; i < c; ++i)
      for (int64_t j = 0; j < c; ++j) to[b * targets.stride + i * c + j] -= products[b].across(i, j);
  return {dh, dtarget};
}

// f<T> for h's dtype, which has been checked.
template <typename F>
auto for_dtype(const Tensor& h, F f) {
  switch (h.scalar_type()) {
    case ScalarType::Double: return f(double());
    case ScalarType::Half: return f(torch::headeronly::Half());
    case ScalarType::BFloat16: return f(torch::headeronly::BFloat16());
    default: return f(float());
  }
}

Tensor gram(const Tensor& h, bool) {
  check_features(h);
  return for_dtype(h, [&](auto t) { return gram_of<decltype(t)>(h); });
}

Tensor gram_correction(const Tensor& h, const Tensor& target, bool) {
  check_target(h, target);
  return for_dtype(h, [&](auto t) { return correction_of<decltype(t)>(h, target); });
}

std::tuple<Tensor, Tensor> gram_correction_backward(const Tensor& h, const Tensor& target, const Tensor& grad,
                                                    bool) {
  check_target(h, target);
  check_grad(h, grad);
  return for_dtype(h, [&](auto t) { return backward_of<decltype(t)>(h, target, grad); });
}

}  // namespace
}  // namespace fastfcs

STABLE_TORCH_LIBRARY_IMPL(fastfcs, CPU, library) {
  library.impl("gram", TORCH_BOX(&fastfcs::gram));
  library.impl("gram_correction", TORCH_BOX(&fastfcs::gram_correction));
  library.impl("gram_correction_backward", TORCH_BOX(&fastfcs::gram_correction_backward));
}
