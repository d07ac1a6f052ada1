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
#ifdef __linux__
#include <unistd.h>
#endif

#include "../checks.h"
#include "../tensors.h"
#include "gram_rows.h"
#include "isa.h"

namespace fastfcs {
namespace {

// A power of two of equal slices, which threads share evenly, 64 at most. Each has its own products, `rows` per
// channel, and a thread has nothing to compute while it copies its first chunk: a slice must be long enough to pay for
// both.
int64_t slices_of(int64_t pixels, int64_t rows) {
  int64_t count = 1;
  while (count < 64 && pixels / (2 * count) >= std::max<int64_t>(2048, 4 * rows)) count *= 2;
  return count;
}

int64_t quotient_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit; }

// Pixels of a chunk, whole blocks of three vectors in any instruction set. Long rows suit the prefetchers; two chunks
// fit into the second-level cache or, of few rows in float32, into the first. A pixel is so many bytes in h.
int64_t chunk_of(int64_t pixels, int64_t rows, int64_t bytes) {
  const int64_t most = rows <= 16 ? 768 / std::min<int64_t>(bytes, 4) : rows <= 64 ? 528 : rows <= 256 ? 384 : 192;
  return 48 * quotient_up(pixels, 48 * quotient_up(pixels, most));
}

// Elements of the batch, from the first to the last, that so many threads work on before they turn to others.
struct Share {
  int64_t first, last, threads;
};

// What the operators read, contiguous, element after element of the batch.
template <typename T>
struct Batch {
  using A = accumulate_t<T>;
  Tensor h, g;
  int64_t size, channels, pixels;
  bool has_g;
  int64_t slices, chunk, chunks;

  Batch(const Tensor& h, const Tensor* grad)
      : h(as_contiguous(h)),
        g(grad ? as_contiguous(*grad) : this->h),
        size(h.size(0)),
        channels(h.size(1)),
        pixels(h.size(2) * h.size(3)),
        has_g(grad) {
    const int64_t rows = (has_g ? 2 : 1) * quotient_up(channels, 4) * 4;
    slices = slices_of(pixels, rows);
    const int64_t longest = std::min(pixels, pixels / slices + 16);
    chunk = chunk_of(longest, rows, sizeof(T));
    chunks = quotient_up(longest, chunk);
  }

  Features<T> operator[](int64_t b) const {
    const int64_t at = b * channels * pixels;
    const T* from = static_cast<const T*>(h.const_data_ptr()) + at;
    const T* second = has_g ? static_cast<const T*>(g.const_data_ptr()) + at : nullptr;
    return {channels, pixels, slices, chunk, chunks, from, second};
  }

  // f(share) for shares that make up the batch. Of an element whose whole work one thread does, that core's cache still
  // holds what is read again.
  template <typename F>
  void each_share(F f) const {
    const int64_t threads = torch::stable::get_num_threads();
    if (size % threads) return f(Share{0, size, threads});
    torch::stable::parallel_for(0, size, 1, [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; ++b) f(Share{b, b + 1, 1});
    });
  }

  // f(element, first slice, last slice) for all of a share, in parts by its threads.
  template <typename F>
  void each_part(const Share& share, F f) const {
    torch::stable::parallel_for(share.first * slices, share.last * slices, 1, [&](int64_t first, int64_t last) {
      for (int64_t b = first / slices; first < last; ++b) {
        const int64_t stop = std::min(last, (b + 1) * slices);
        f(b, first - b * slices, stop - b * slices);
        first = stop;
      }
    });
  }
};

// Room for the copies of a share's chunks, if the second-level caches can hold them beside h and the result.
template <typename T>
class Copies {
  using A = accumulate_t<T>;

 public:
  Copies(const Batch<T>& batch, const Share& share)
      : first_(share.first * batch.slices), slice_(batch.chunks * batch[0].copy()) {
#ifdef _SC_LEVEL2_CACHE_SIZE
    static const int64_t cache = sysconf(_SC_LEVEL2_CACHE_SIZE);
    const int64_t count = (share.last - share.first) * batch.slices * slice_;
    if (count * int64_t(sizeof(A)) <= share.threads * cache / 5) memory_.reset(new A[count]);
#endif
  }

  A* of(int64_t slice) const { return memory_ ? memory_.get() + (slice - first_) * slice_ : nullptr; }

 private:
  int64_t first_, slice_;  // slices count from the batch's first
  std::unique_ptr<A[]> memory_;
};

// x_i . x_j over all pixels, for one element of the batch.
template <typename A>
struct Products {
  const A* sums;
  int64_t outputs;
  A own(int64_t i, int64_t j) const { return sums[i * outputs + j]; }                 // h_i . h_j
  A across(int64_t i, int64_t j) const { return sums[(outputs + j) * outputs + i]; }  // h_i . g_j
};

template <typename T>
class AllProducts {
  using A = accumulate_t<T>;

 public:
  explicit AllProducts(const Batch<T>& batch)
      : batch_(batch),
        outputs_(batch[0].outputs()),
        rows_(batch[0].rows()),
        sums_(new A[batch.size * batch.slices * outputs_ * rows_]) {}

  void compute(const Share& share, const Copies<T>* copies) const {
    static const SliceProducts<T> products = FASTFCS_FOR_ISA(slice_products<T>);
    batch_.each_part(share, [&](int64_t b, int64_t first, int64_t last) {
      products(batch_[b], first, last, at(b, first), copies ? copies->of(b * batch_.slices + first) : nullptr);
    });
    // Sixteen rows, so that what lies above the diagonal is written in whole lines.
    const int64_t blocks = (rows_ + 15) / 16;
    torch::stable::parallel_for(share.first * blocks, share.last * blocks, 4, [&](int64_t first, int64_t last) {
      for (int64_t block = first; block < last; ++block) {
        A* const sums = at(block / blocks, 0);
        const int64_t top = block % blocks * 16, bottom = std::min(top + 16, rows_);
        for (int64_t j = top; j < bottom; ++j)
          for (int64_t slice = 1; slice < batch_.slices; ++slice) {
            const A* const more = at(block / blocks, slice) + j * outputs_;
            for (int64_t i = 0; i < std::min(j + 1, outputs_); ++i) sums[j * outputs_ + i] += more[i];
          }
        const int64_t right = std::min(bottom, outputs_);  // G ends there, h's products with g are not symmetric
        for (int64_t i = 0; i < right; ++i)
          for (int64_t j = std::max(top, i); j < right; ++j) sums[i * outputs_ + j] = sums[j * outputs_ + i];
      }
    });
  }

  Products<A> operator[](int64_t b) const { return {at(b, 0), outputs_}; }

 private:
  A* at(int64_t b, int64_t slice) const { return sums_.get() + (b * batch_.slices + slice) * outputs_ * rows_; }

  const Batch<T>& batch_;
  int64_t outputs_, rows_;
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

// An Intel CPU gains by writing past the caches once they cannot hold the result; an AMD one loses where the memory was
// in use before.
inline Stores stores_of(const Tensor& result) {
  constexpr int64_t line = 64, fetched = 8 << 20, large = 32 << 20;
  const int64_t bytes = result.numel() * result.element_size();
#ifdef __x86_64__
  static const bool intel = __builtin_cpu_is("intel");
  const bool lines = result.size(2) * result.size(3) * result.element_size() % line == 0 &&
                     reinterpret_cast<uintptr_t>(result.const_data_ptr()) % line == 0;
  if (intel && lines && bytes >= large) return Stores::past_caches;
#endif
  return bytes >= fetched ? Stores::fetched : Stores::cached;
}

// The combinations of x, of a share, with the weights weigher(b)(i, j), i counting h's channels and then g's.
template <typename T, typename Weigher>
void combine(const Batch<T>& batch, const Share& share, Weigher weigher, const Copies<T>& copies, T* result,
             Stores stores) {
  using A = accumulate_t<T>;
  static const SliceCombination<T> combination = FASTFCS_FOR_ISA(slice_combination<T>);
  const int64_t c = batch.channels, outputs = batch[0].outputs(), rows = batch[0].rows();
  const std::unique_ptr<A[]> memory(new A[(share.last - share.first) * outputs * rows]);
  const auto weights = [&](int64_t b) { return memory.get() + (b - share.first) * outputs * rows; };
  // Sixteen results, so that whole lines are read.
  const int64_t blocks = (outputs + 15) / 16;
  const int64_t grain = 1 + 1024 / rows;
  torch::stable::parallel_for(share.first * blocks, share.last * blocks, grain, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      const int64_t b = block / blocks, left = block % blocks * 16, right = std::min(left + 16, outputs);
      const auto weight = weigher(b);
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t channel = row < outputs ? row : row - outputs, i = row < outputs ? row : c + channel;
        for (int64_t j = left; j < right; j += 4) {
          A four[4] = {};
          const int64_t wanted = channel < c ? std::min<int64_t>(4, c - j) : 0;
          if (wanted == 4)  // a loop that the compiler vectorizes
            for (int64_t k = 0; k < 4; ++k) four[k] = weight(i, j + k);
          else
            for (int64_t k = 0; k < wanted; ++k) four[k] = weight(i, j + k);
          std::copy(four, four + 4, weights(b) + j * rows + row * 4);
        }
      }
    }
  });
  batch.each_part(share, [&](int64_t b, int64_t first, int64_t last) {
    combination(batch[b], first, last, weights(b), copies.of(b * batch.slices + first),
                result + b * c * batch.pixels, stores);
  });
}

// The products of every share and, while its cores' caches hold it, its combinations.
template <typename T, typename Weigher>
void correct(const Batch<T>& batch, const AllProducts<T>& products, Weigher weigher, Tensor& result) {
  T* const to = static_cast<T*>(result.mutable_data_ptr());
  const Stores stores = stores_of(result);
  batch.each_share([&](const Share& share) {
    const Copies<T> copies(batch, share);
    products.compute(share, &copies);
    combine(batch, share, weigher, copies, to, stores);
  });
}

template <typename T>
Tensor gram_of(const Tensor& h) {
  using A = accumulate_t<T>;
  const Batch<T> batch(h, nullptr);
  const AllProducts<T> products(batch);
  const int64_t c = batch.channels;
  Tensor result = empty_beside(h, {batch.size, c, c}, gram_dtype(h));
  A* const to = result.mutable_data_ptr<A>();
  batch.each_share([&](const Share& share) {
    products.compute(share, nullptr);
    for (int64_t b = share.first; b < share.last; ++b)
      for (int64_t i = 0; i < c; ++i)
        for (int64_t j = 0; j < c; ++j) to[(b * c + i) * c + j] = products[b].own(i, j) / A(batch.pixels);
  });
  return result;
}

template <typename T>
Tensor correction_of(const Tensor& h, const Tensor& target) {
  using A = accumulate_t<T>;
  const Batch<T> batch(h, nullptr);
  // Before smaller allocations split the heap's largest free block.
  Tensor result = empty_beside(h, h.sizes().vec(), h.scalar_type());
  const AllProducts<T> products(batch);
  const Target<A> targets(target);
  const int64_t c = batch.channels;
  const A n = A(batch.pixels);
  const auto weigher = [&](int64_t b) {
    return [=, G = products[b], H = targets[b]](int64_t i, int64_t j) { return G.own(i, j) / n - H[i * c + j]; };
  };
  correct(batch, products, weigher, result);
  return result;
}

template <typename T>
std::tuple<Tensor, Tensor> backward_of(const Tensor& h, const Tensor& target, const Tensor& grad) {
  using A = accumulate_t<T>;
  const Batch<T> batch(h, &grad);
  Tensor dh = empty_beside(h, h.sizes().vec(), h.scalar_type());
  const AllProducts<T> products(batch);
  const Target<A> targets(target);
  const int64_t c = batch.channels;
  const A n = A(batch.pixels);
  const auto weigher = [&](int64_t b) {
    return [=, G = products[b], H = targets[b]](int64_t i, int64_t j) {
      return i < c ? (G.across(i, j) + G.across(j, i)) / n : G.own(i - c, j) / n - H[j * c + i - c];
    };
  };
  correct(batch, products, weigher, dh);
  Tensor dtarget = empty_beside(h, {target.size(0), c, c}, gram_dtype(h));
  A* const sums = dtarget.mutable_data_ptr<A>();
  std::fill(sums, sums + dtarget.numel(), A(0));
  for (int64_t b = 0; b < batch.size; ++b)
    for (int64_t i = 0; i < c; ++i)
      for (int64_t j = 0; j < c; ++j) sums[b * targets.stride + i * c + j] -= products[b].across(i, j);
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
