// gram, gram_correction and its backward on the CPU.
//
// h is read once for its products and once to be combined, and the result is written once. No other
// array is as large as h. Products are summed per slice of pixels, and the slices in a fixed order,
// so that the result does not depend on the number of threads.
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

// The number of slices: a power of two, which threads share evenly, and at most 64. Every slice has
// products of its own, `rows` per channel, and its thread has nothing to compute while it copies
// the first chunk. A slice must be long enough to pay for both.
int64_t slice_count(int64_t pixels, int64_t rows) {
  int64_t count = 1;
  while (count < 64 && pixels / (2 * count) >= std::max<int64_t>(2048, 4 * rows)) count *= 2;
  return count;
}

int64_t ceil_div(int64_t count, int64_t unit) { return (count + unit - 1) / unit; }

// Pixels per chunk: a multiple of 48, that is, of three vectors in every instruction set. Long rows
// suit the hardware prefetchers. Two chunks fit into the L2 cache or, if float32 has few rows, into
// L1. `element_size` is that of h.
int64_t chunk_size(int64_t pixels, int64_t rows, int64_t element_size) {
  const int64_t most = rows <= 16    ? 768 / std::min<int64_t>(element_size, 4)
                       : rows <= 64  ? 528
                       : rows <= 256 ? 384
                                     : 192;
  return 48 * ceil_div(pixels, 48 * ceil_div(pixels, most));
}

// Batch elements [first, last), which `threads` threads finish before they start on others.
struct BatchRange {
  int64_t first, last, threads;
};

// The operands, contiguous, and their division into slices and chunks.
template <typename T>
struct Batch {
  using A = accumulate_t<T>;
  Tensor h, g;  // [B, C, H, W]
  int64_t size, channels, pixels;
  bool has_g;
  int64_t slices, chunk_pixels, slice_chunks;

  Batch(const Tensor& h, const Tensor* grad)
      : h(as_contiguous(h)),
        g(grad ? as_contiguous(*grad) : this->h),
        size(h.size(0)),
        channels(h.size(1)),
        pixels(h.size(2) * h.size(3)),
        has_g(grad) {
    const int64_t rows = (has_g ? 2 : 1) * ceil_div(channels, 4) * 4;
    slices = slice_count(pixels, rows);
    const int64_t longest = std::min(pixels, pixels / slices + 16);
    chunk_pixels = chunk_size(longest, rows, sizeof(T));
    slice_chunks = ceil_div(longest, chunk_pixels);
  }

  FeatureView<T> operator[](int64_t b) const {
    const int64_t at = b * channels * pixels;
    const T* from = static_cast<const T*>(h.const_data_ptr()) + at;
    const T* second = has_g ? static_cast<const T*>(g.const_data_ptr()) + at : nullptr;
    return {channels, pixels, slices, chunk_pixels, slice_chunks, from, second};
  }

  // Calls f(range) for ranges that cover the batch. If one thread does all the work on an element,
  // its core's cache still holds the data of the first pass in the second.
  template <typename F>
  void for_each_range(F f) const {
    const int64_t threads = torch::stable::get_num_threads();
    if (size % threads) return f(BatchRange{0, size, threads});
    torch::stable::parallel_for(0, size, 1, [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; ++b) f(BatchRange{b, b + 1, 1});
    });
  }

  // Calls f(element, first slice, last slice) in parallel, covering all slices of the range.
  template <typename F>
  void for_each_slice_range(const BatchRange& range, F f) const {
    torch::stable::parallel_for(range.first * slices, range.last * slices, 1,
                                [&](int64_t first, int64_t last) {
                                  for (int64_t b = first / slices; first < last; ++b) {
                                    const int64_t stop = std::min(last, (b + 1) * slices);
                                    f(b, first - b * slices, stop - b * slices);
                                    first = stop;
                                  }
                                });
  }
};

// Memory for the copies of a range's chunks, if the L2 caches can hold them next to h and the
// result.
template <typename T>
class ChunkCopies {
  using A = accumulate_t<T>;

 public:
  ChunkCopies(const Batch<T>& batch, const BatchRange& range)
      : first_(range.first * batch.slices), slice_size_(batch.slice_chunks * batch[0].copy_size()) {
#ifdef _SC_LEVEL2_CACHE_SIZE
    static const int64_t cache = sysconf(_SC_LEVEL2_CACHE_SIZE);
    const int64_t count = (range.last - range.first) * batch.slices * slice_size_;
    if (count * int64_t(sizeof(A)) <= range.threads * cache / 5) memory_.reset(new A[count]);
#endif
  }

  // The copies of a slice, numbered from the batch's first; null if they are not kept.
  A* of(int64_t slice) const {
    return memory_ ? memory_.get() + (slice - first_) * slice_size_ : nullptr;
  }

 private:
  int64_t first_, slice_size_;
  std::unique_ptr<A[]> memory_;
};

// Products over all pixels, for one batch element.
template <typename A>
struct ElementProducts {
  const A* sums;  // [rows, channels], with the padded number of channels
  int64_t channels;
  A hh(int64_t i, int64_t j) const { return sums[i * channels + j]; }               // h_i . h_j
  A hg(int64_t i, int64_t j) const { return sums[(channels + j) * channels + i]; }  // h_i . g_j
};

template <typename T>
class BatchProducts {
  using A = accumulate_t<T>;

 public:
  explicit BatchProducts(const Batch<T>& batch)
      : batch_(batch),
        channels_(batch[0].padded_channels()),
        rows_(batch[0].rows()),
        sums_(new A[batch.size * batch.slices * channels_ * rows_]) {}

  void compute(const BatchRange& range, const ChunkCopies<T>* copies) const {
    static const SliceProducts<T> products = FASTFCS_FOR_ISA(slice_products<T>);
    batch_.for_each_slice_range(range, [&](int64_t b, int64_t first, int64_t last) {
      products(batch_[b], first, last, at(b, first),
               copies ? copies->of(b * batch_.slices + first) : nullptr);
    });
    // Adds the slices in blocks of 16 rows, so that the part above the diagonal is written in whole
    // cache lines.
    const int64_t blocks = (rows_ + 15) / 16;
    torch::stable::parallel_for(
        range.first * blocks, range.last * blocks, 4, [&](int64_t first, int64_t last) {
          for (int64_t block = first; block < last; ++block) {
            A* const sums = at(block / blocks, 0);
            const int64_t top = block % blocks * 16, bottom = std::min(top + 16, rows_);
            for (int64_t j = top; j < bottom; ++j)
              for (int64_t slice = 1; slice < batch_.slices; ++slice) {
                const A* const more = at(block / blocks, slice) + j * channels_;
                for (int64_t i = 0; i < std::min(j + 1, channels_); ++i)
                  sums[j * channels_ + i] += more[i];
              }
            // Mirrors G. The rows below it, h's products with g, are not symmetric.
            const int64_t right = std::min(bottom, channels_);
            for (int64_t i = 0; i < right; ++i)
              for (int64_t j = std::max(top, i); j < right; ++j)
                sums[i * channels_ + j] = sums[j * channels_ + i];
          }
        });
  }

  ElementProducts<A> operator[](int64_t b) const { return {at(b, 0), channels_}; }

 private:
  A* at(int64_t b, int64_t slice) const {
    return sums_.get() + (b * batch_.slices + slice) * channels_ * rows_;
  }

  const Batch<T>& batch_;
  int64_t channels_, rows_;
  std::unique_ptr<A[]> sums_;  // [B, slices, rows, channels]
};

// H of every batch element.
template <typename A>
struct Target {
  Tensor target;
  const A* data;  // [B or 1, C, C]; looked up once, since a look-up takes longer than an element
  int64_t stride;
  explicit Target(const Tensor& t)
      : target(as_contiguous(t)),
        data(target.const_data_ptr<A>()),
        stride(t.size(0) == 1 ? 0 : t.size(1) * t.size(2)) {}
  const A* operator[](int64_t b) const { return data + b * stride; }
};

// Intel CPUs gain from streaming stores once the caches cannot hold the result. AMD CPUs lose if
// the memory was in use before.
inline StorePolicy store_policy(const Tensor& result) {
  constexpr int64_t line = 64, prefetched = 8 << 20, large = 32 << 20;
  const int64_t bytes = result.numel() * result.element_size();
#ifdef __x86_64__
  static const bool intel = __builtin_cpu_is("intel");
  const bool lines = result.size(2) * result.size(3) * result.element_size() % line == 0 &&
                     reinterpret_cast<uintptr_t>(result.const_data_ptr()) % line == 0;
  if (intel && lines && bytes >= large) return StorePolicy::streaming;
#endif
  return bytes >= prefetched ? StorePolicy::prefetched : StorePolicy::cached;
}

// Writes result [B, C, n], the combinations of the rows of a range with weights weights_of(b)(i,
// j). i counts the channels of h and then those of g, j the channels of the result.
template <typename T, typename WeightsOf>
void combine(const Batch<T>& batch, const BatchRange& range, WeightsOf weights_of,
             const ChunkCopies<T>& copies, T* result, StorePolicy stores) {
  using A = accumulate_t<T>;
  static const SliceCombination<T> combination = FASTFCS_FOR_ISA(slice_combination<T>);
  const int64_t c = batch.channels, channels = batch[0].padded_channels(), rows = batch[0].rows();
  // [element, channels / 4, rows, 4]
  const std::unique_ptr<A[]> memory(new A[(range.last - range.first) * channels * rows]);
  const auto packed = [&](int64_t b) { return memory.get() + (b - range.first) * channels * rows; };
  // Blocks of 16 columns, so that whole cache lines are read.
  const int64_t blocks = (channels + 15) / 16;
  const int64_t grain = 1 + 1024 / rows;
  torch::stable::parallel_for(
      range.first * blocks, range.last * blocks, grain, [&](int64_t first, int64_t last) {
        for (int64_t block = first; block < last; ++block) {
          const int64_t b = block / blocks;
          const int64_t left = block % blocks * 16, right = std::min(left + 16, channels);
          const auto weight = weights_of(b);
          for (int64_t row = 0; row < rows; ++row) {
            const int64_t channel = row < channels ? row : row - channels;
            const int64_t i = row < channels ? row : c + channel;
            for (int64_t j = left; j < right; j += 4) {
              A quad[4] = {};
              const int64_t valid = channel < c ? std::min<int64_t>(4, c - j) : 0;
              if (valid == 4)  // a constant trip count, which the compiler vectorises
                for (int64_t k = 0; k < 4; ++k) quad[k] = weight(i, j + k);
              else
                for (int64_t k = 0; k < valid; ++k) quad[k] = weight(i, j + k);
              std::copy(quad, quad + 4, packed(b) + j * rows + row * 4);
            }
          }
        }
      });
  batch.for_each_slice_range(range, [&](int64_t b, int64_t first, int64_t last) {
    combination(batch[b], first, last, packed(b), copies.of(b * batch.slices + first),
                result + b * c * batch.pixels, stores);
  });
}

// Computes the products of each range and, while the caches hold its data, its combinations.
template <typename T, typename WeightsOf>
void run_correction(const Batch<T>& batch, const BatchProducts<T>& products, WeightsOf weights_of,
                    Tensor& result) {
  T* const to = static_cast<T*>(result.mutable_data_ptr());
  const StorePolicy stores = store_policy(result);
  batch.for_each_range([&](const BatchRange& range) {
    const ChunkCopies<T> copies(batch, range);
    products.compute(range, &copies);
    combine(batch, range, weights_of, copies, to, stores);
  });
}

template <typename T>
Tensor gram_typed(const Tensor& h) {
  using A = accumulate_t<T>;
  const Batch<T> batch(h, nullptr);
  const BatchProducts<T> products(batch);
  const int64_t c = batch.channels;
  Tensor result = new_empty(h, {batch.size, c, c}, gram_dtype(h));
  A* const to = result.mutable_data_ptr<A>();
  batch.for_each_range([&](const BatchRange& range) {
    products.compute(range, nullptr);
    for (int64_t b = range.first; b < range.last; ++b)
      for (int64_t i = 0; i < c; ++i)
        for (int64_t j = 0; j < c; ++j)
          to[(b * c + i) * c + j] = products[b].hh(i, j) / A(batch.pixels);
  });
  return result;
}

template <typename T>
Tensor correction_typed(const Tensor& h, const Tensor& target) {
  using A = accumulate_t<T>;
  const Batch<T> batch(h, nullptr);
  // Allocated first, before smaller allocations split the heap's largest free block.
  Tensor result = new_empty(h, h.sizes().vec(), h.scalar_type());
  const BatchProducts<T> products(batch);
  const Target<A> targets(target);
  const int64_t c = batch.channels;
  const A n = A(batch.pixels);
  const auto weights_of = [&](int64_t b) {
    return [=, G = products[b], H = targets[b]](int64_t i, int64_t j) {
      return G.hh(i, j) / n - H[i * c + j];
    };
  };
  run_correction(batch, products, weights_of, result);
  return result;
}

template <typename T>
std::tuple<Tensor, Tensor> backward_typed(const Tensor& h, const Tensor& target,
                                          const Tensor& grad) {
  using A = accumulate_t<T>;
  const Batch<T> batch(h, &grad);
  Tensor dh = new_empty(h, h.sizes().vec(), h.scalar_type());
  const BatchProducts<T> products(batch);
  const Target<A> targets(target);
  const int64_t c = batch.channels;
  const A n = A(batch.pixels);
  const auto weights_of = [&](int64_t b) {
    return [=, G = products[b], H = targets[b]](int64_t i, int64_t j) {
      return i < c ? (G.hg(i, j) + G.hg(j, i)) / n : G.hh(i - c, j) / n - H[j * c + i - c];
    };
  };
  run_correction(batch, products, weights_of, dh);
  Tensor dtarget = new_empty(h, {target.size(0), c, c}, gram_dtype(h));
  A* const sums = dtarget.mutable_data_ptr<A>();
  std::fill(sums, sums + dtarget.numel(), A(0));
  for (int64_t b = 0; b < batch.size; ++b)
    for (int64_t i = 0; i < c; ++i)
      for (int64_t j = 0; j < c; ++j) sums[b * targets.stride + i * c + j] -= products[b].hg(i, j);
  return {dh, dtarget};
}

// Calls f(T()) for the dtype of h, which has been checked.
template <typename F>
auto dispatch(const Tensor& h, F f) {
  switch (h.scalar_type()) {
    case ScalarType::Double: return f(double());
    case ScalarType::Half: return f(torch::headeronly::Half());
    case ScalarType::BFloat16: return f(torch::headeronly::BFloat16());
    default: return f(float());
  }
}

Tensor gram(const Tensor& h, bool) {
  check_features(h);
  return dispatch(h, [&](auto t) { return gram_typed<decltype(t)>(h); });
}

Tensor gram_correction(const Tensor& h, const Tensor& target, bool) {
  check_target(h, target);
  return dispatch(h, [&](auto t) { return correction_typed<decltype(t)>(h, target); });
}

std::tuple<Tensor, Tensor> gram_correction_backward(const Tensor& h, const Tensor& target,
                                                    const Tensor& grad, bool) {
  check_target(h, target);
  check_grad(h, grad);
  return dispatch(h, [&](auto t) { return backward_typed<decltype(t)>(h, target, grad); });
}

}  // namespace
}  // namespace fastfcs

STABLE_TORCH_LIBRARY_IMPL(fastfcs, CPU, library) {
  library.impl("gram", TORCH_BOX(&fastfcs::gram));
  library.impl("gram_correction", TORCH_BOX(&fastfcs::gram_correction));
  library.impl("gram_correction_backward", TORCH_BOX(&fastfcs::gram_correction_backward));
}
