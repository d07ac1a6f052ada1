// gram, gram_correction and its backward, cross_gram and level_gradient on the CPU.
//
// h is read once for its products and once to be combined, and the result is written once. No other
// array is as large as h. Products are summed per slice of pixels, and the slices in a fixed order,
// so that the result does not depend on the number of threads.
//
// Features in channels_last memory and those in planes (contiguous) have inner loops of their own.
#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include <torch/csrc/stable/library.h>
#ifdef __linux__
#include <unistd.h>
#endif

#include "../checks.h"
#include "../tensors.h"
#include "gram_pixels_rows.h"
#include "gram_rows.h"
#include "isa.h"
#include "parallel.h"

namespace fastfcs {
namespace {

// The number of slices of at least `shortest` pixels: a power of two, which threads share evenly,
// and at most 64.
int64_t slice_count(int64_t pixels, int64_t shortest) {
  int64_t count = 1;
  while (count < 64 && pixels / (2 * count) >= shortest) count *= 2;
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

// A batch that is divided into slices of pixels.
struct SlicedBatch {
  int64_t size, channels, pixels;
  bool has_g;
  int64_t slices = 1;

  SlicedBatch(const Tensor& h, const Tensor* g)
      : size(h.size(0)), channels(h.size(1)), pixels(h.size(2) * h.size(3)), has_g(g) {}

  // Calls f(element, first slice, last slice) in parallel, covering all slices of the range.
  template <typename F>
  void for_each_slice_range(const BatchRange& range, F f) const {
    for_each_part(range.first, range.last, slices, 1, f);
  }
};

// The operands in planes, contiguous, and their division into slices and chunks.
template <typename T>
struct PlaneBatch : SlicedBatch {
  using Feature = T;
  Tensor h, g;  // [B, C, H, W]
  int64_t chunk_pixels, slice_chunks;

  PlaneBatch(const Tensor& h, const Tensor* grad)
      : SlicedBatch(h, grad), h(as_contiguous(h)), g(grad ? as_contiguous(*grad) : this->h) {
    // Every slice has products of its own, `rows` per channel, and its thread has nothing to
    // compute while it copies the first chunk. A slice must be long enough to pay for both.
    const int64_t rows = (has_g ? 2 : 1) * ceil_div(channels, 4) * 4;
    slices = slice_count(pixels, std::max<int64_t>(2048, 4 * rows));
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

  // The sums of products are [rows, pitch]; in the first own_rows only those up to the diagonal.
  int64_t pitch() const { return (*this)[0].padded_channels(); }
  int64_t rows() const { return (*this)[0].rows(); }
  int64_t own_rows() const { return pitch(); }

  void multiply(int64_t b, int64_t first, int64_t last, accumulate_t<T>* sums,
                accumulate_t<T>* copies) const {
    static const SliceProducts<T> products = FASTFCS_FOR_ISA(slice_products<T>);
    products((*this)[b], first, last, sums, copies);
  }

  Tensor new_result() const { return new_empty(h, h.sizes().vec(), h.scalar_type()); }

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
};

// Features as rows of pixels, of channels_last memory or copied to it.
template <typename T>
struct PixelFeatures {
  Tensor tensor;
  const T* data;
  explicit PixelFeatures(const Tensor& t)
      : tensor(as_pixel_rows(t)), data(static_cast<const T*>(tensor.const_data_ptr())) {}
  PixelRows<const T> operator[](int64_t b) const {
    return {data + b * tensor.stride(0),
            tensor.size(1),
            tensor.size(2),
            tensor.size(3),
            tensor.stride(2),
            0};
  }
};

// The operands in channels_last memory and their division into slices.
template <typename T>
struct PixelBatch : SlicedBatch {
  using Feature = T;
  PixelFeatures<T> h, g;
  bool own;  // whether the products of h with itself are wanted

  PixelBatch(const Tensor& h, const Tensor* grad, bool own = true)
      : SlicedBatch(h, grad), h(h), g(grad ? *grad : this->h.tensor), own(own) {
    slices = slice_count(pixels, std::max<int64_t>(256, 3 * channels / 2));
  }

  PixelRows<const T> view_h(int64_t b) const { return flattened(h[b]); }
  PixelRows<const T> view_g(int64_t b) const {
    return has_g ? flattened(g[b]) : PixelRows<const T>{};
  }
  int64_t slice_begin(int64_t slice) const { return slice * pixels / slices; }

  int64_t pitch() const { return padded_channels(channels); }
  int64_t own_rows() const { return own ? pitch() : 0; }
  int64_t rows() const { return own_rows() + (has_g ? pitch() : 0); }

  void multiply(int64_t b, int64_t first, int64_t last, accumulate_t<T>* sums,
                accumulate_t<T>*) const {
    static const PixelProducts<T> products = FASTFCS_FOR_ISA(pixel_products<T>);
    for (int64_t slice = first; slice < last; ++slice, sums += pitch() * rows())
      products(view_h(b), view_g(b), own, slice_begin(slice), slice_begin(slice + 1), sums);
  }

  Tensor new_result() const { return new_channels_last(h.tensor, h.tensor.sizes().vec()); }

  template <typename F>
  void for_each_range(F f) const {
    f(BatchRange{0, size, torch::stable::get_num_threads()});
  }

 private:
  // Adjacent rows as a single one, so that chunks need not end with the rows of an image.
  static PixelRows<const T> flattened(const PixelRows<const T>& x) {
    if (x.height > 1 && x.row_pitch != x.width * x.channels) return x;
    return {x.data, x.channels, 1, x.width * x.height, 0, 0};
  }
};

// Memory for the copies of a range's chunks, if the L2 caches can hold them next to h and the
// result.
template <typename T>
class ChunkCopies {
  using A = accumulate_t<T>;

 public:
  ChunkCopies(const PlaneBatch<T>& batch, const BatchRange& range)
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
  const A* sums;  // [rows, pitch]
  int64_t pitch, own_rows;
  A hh(int64_t i, int64_t j) const { return sums[i * pitch + j]; }               // h_i . h_j
  A hg(int64_t i, int64_t j) const { return sums[(own_rows + j) * pitch + i]; }  // h_i . g_j
};

template <typename Batch>
class BatchProducts {
  using T = typename Batch::Feature;
  using A = accumulate_t<T>;

 public:
  explicit BatchProducts(const Batch& batch)
      : batch_(batch),
        pitch_(batch.pitch()),
        rows_(batch.rows()),
        own_rows_(batch.own_rows()),
        sums_(new A[batch.size * batch.slices * pitch_ * rows_]) {}

  void compute(const BatchRange& range, const ChunkCopies<T>* copies) const {
    batch_.for_each_slice_range(range, [&](int64_t b, int64_t first, int64_t last) {
      batch_.multiply(b, first, last, at(b, first),
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
                const A* const more = at(block / blocks, slice) + j * pitch_;
                const int64_t count = j < own_rows_ ? j + 1 : pitch_;
                for (int64_t i = 0; i < count; ++i) sums[j * pitch_ + i] += more[i];
              }
            // Mirrors G. The rows below it, h's products with g, are not symmetric.
            const int64_t right = std::min(bottom, own_rows_);
            for (int64_t i = 0; i < right; ++i)
              for (int64_t j = std::max(top, i); j < right; ++j)
                sums[i * pitch_ + j] = sums[j * pitch_ + i];
          }
        });
  }

  ElementProducts<A> operator[](int64_t b) const { return {at(b, 0), pitch_, own_rows_}; }

 private:
  A* at(int64_t b, int64_t slice) const {
    return sums_.get() + (b * batch_.slices + slice) * pitch_ * rows_;
  }

  const Batch& batch_;
  int64_t pitch_, rows_, own_rows_;
  std::unique_ptr<A[]> sums_;  // [B, slices, rows, pitch]
};

// A matrix per batch element, or one for all.
template <typename A>
struct Matrices {
  Tensor tensor;
  const A* data;  // [B or 1, C, C]; looked up once, since a look-up takes longer than an element
  int64_t stride;
  explicit Matrices(const Tensor& t)
      : tensor(as_contiguous(t)),
        data(tensor.const_data_ptr<A>()),
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
void combine(const PlaneBatch<T>& batch, const BatchRange& range, WeightsOf weights_of,
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
void run_correction(const PlaneBatch<T>& batch, const BatchProducts<PlaneBatch<T>>& products,
                    WeightsOf weights_of, Tensor& result) {
  T* const to = static_cast<T*>(result.mutable_data_ptr());
  const StorePolicy stores = store_policy(result);
  batch.for_each_range([&](const BatchRange& range) {
    const ChunkCopies<T> copies(batch, range);
    products.compute(range, &copies);
    combine(batch, range, weights_of, copies, to, stores);
  });
}

template <typename T, typename WeightsOf>
void run_correction(const PixelBatch<T>& batch, const BatchProducts<PixelBatch<T>>& products,
                    WeightsOf weights_of, Tensor& result) {
  using A = accumulate_t<T>;
  static const PixelCombination<T> combination = FASTFCS_FOR_ISA(pixel_combination<T>);
  T* const to = static_cast<T*>(result.mutable_data_ptr());
  const int64_t c = batch.channels, rows = batch.has_g ? 2 * c : c;
  const std::unique_ptr<A[]> weights(new A[batch.size * rows * c]);  // [B, rows, C]
  batch.for_each_range([&](const BatchRange& range) {
    products.compute(range, nullptr);
    torch::stable::parallel_for(range.first * rows, range.last * rows, 1 + 8192 / c,
                                [&](int64_t first, int64_t last) {
                                  for (int64_t row = first; row < last; ++row) {
                                    const auto weight = weights_of(row / rows);
                                    for (int64_t j = 0; j < c; ++j)
                                      weights[row * c + j] = weight(row % rows, j);
                                  }
                                });
    batch.for_each_slice_range(range, [&](int64_t b, int64_t first, int64_t last) {
      combination(batch.view_h(b), batch.view_g(b), weights.get() + b * rows * c,
                  batch.slice_begin(first), batch.slice_begin(last), to + b * c * batch.pixels);
    });
  });
}

template <typename Batch>
Tensor gram_of(const Tensor& h) {
  using A = accumulate_t<typename Batch::Feature>;
  const Batch batch(h, nullptr);
  const BatchProducts<Batch> products(batch);
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

template <typename Batch>
Tensor correction_of(const Tensor& h, const Tensor& target) {
  using A = accumulate_t<typename Batch::Feature>;
  const Batch batch(h, nullptr);
  // Allocated first, before smaller allocations split the heap's largest free block.
  Tensor result = batch.new_result();
  const BatchProducts<Batch> products(batch);
  const Matrices<A> targets(target);
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

template <typename Batch>
std::tuple<Tensor, Tensor> backward_of(const Tensor& h, const Tensor& target, const Tensor& grad) {
  using A = accumulate_t<typename Batch::Feature>;
  const Batch batch(h, &grad);
  Tensor dh = batch.new_result();
  const BatchProducts<Batch> products(batch);
  const Matrices<A> targets(target);
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

template <typename T>
Tensor cross_gram_of(const Tensor& h, const Tensor& g) {
  using A = accumulate_t<T>;
  const PixelBatch<T> batch(h, &g, false);
  const BatchProducts<PixelBatch<T>> products(batch);
  const int64_t c = batch.channels;
  Tensor result = new_empty(h, {batch.size, c, c}, gram_dtype(h));
  A* const to = result.mutable_data_ptr<A>();
  batch.for_each_range([&](const BatchRange& range) { products.compute(range, nullptr); });
  for (int64_t b = 0; b < batch.size; ++b)
    for (int64_t i = 0; i < c; ++i)
      for (int64_t j = 0; j < c; ++j) to[(b * c + i) * c + j] = products[b].hg(i, j);
  return result;
}

template <typename T>
Tensor level_of(const Tensor& h, const Tensor& weights, const Tensor* coarse, double slope) {
  using A = accumulate_t<T>;
  static const LevelRows<T> level = FASTFCS_FOR_ISA(level_rows<T>);
  const int64_t c = h.size(1), height = h.size(2), width = h.size(3);
  Tensor result = new_channels_last(h, {h.size(0), c, height + 2, width + 2});
  const PixelFeatures<T> features(h);
  std::optional<PixelFeatures<T>> below;
  if (coarse) below.emplace(*coarse);
  const Matrices<A> matrices(weights);
  T* const to = static_cast<T*>(result.mutable_data_ptr());
  // A thread packs the weights before its first row.
  const int64_t grain = 1 + (1 << 19) / (width * c * c);
  take_parts(h.size(0), height, grain, [&](int64_t b, int64_t first, int64_t last) {
    level(features[b], matrices[b], below ? (*below)[b] : PixelRows<const T>{}, A(slope), first,
          last, to + b * result.stride(0));
  });
  return result;
}

// Whether the channels of a pixel are adjacent in memory and the result's are to be.
bool in_pixels(const Tensor& h) { return h.stride(1) == 1 && !h.is_contiguous(); }

Tensor gram(const Tensor& h, bool) {
  check_features(h);
  return dispatch(h, [&](auto t) {
    using T = decltype(t);
    return in_pixels(h) ? gram_of<PixelBatch<T>>(h) : gram_of<PlaneBatch<T>>(h);
  });
}

Tensor gram_correction(const Tensor& h, const Tensor& target, bool) {
  check_target(h, target);
  return dispatch(h, [&](auto t) {
    using T = decltype(t);
    return in_pixels(h) ? correction_of<PixelBatch<T>>(h, target)
                        : correction_of<PlaneBatch<T>>(h, target);
  });
}

std::tuple<Tensor, Tensor> gram_correction_backward(const Tensor& h, const Tensor& target,
                                                    const Tensor& grad, bool) {
  check_target(h, target);
  check_grad(h, grad);
  return dispatch(h, [&](auto t) {
    using T = decltype(t);
    return in_pixels(h) ? backward_of<PixelBatch<T>>(h, target, grad)
                        : backward_of<PlaneBatch<T>>(h, target, grad);
  });
}

Tensor cross_gram(const Tensor& h, const Tensor& g, bool) {
  check_like("g", g, "h", h);
  return dispatch(h, [&](auto t) { return cross_gram_of<decltype(t)>(h, g); });
}

Tensor level_gradient(const Tensor& h, const Tensor& weights, const std::optional<Tensor>& coarse,
                      double slope, bool) {
  const Tensor* const below = coarse ? &*coarse : nullptr;
  check_level(h, weights, below, slope);
  return dispatch(h, [&](auto t) { return level_of<decltype(t)>(h, weights, below, slope); });
}

}  // namespace
}  // namespace fastfcs

STABLE_TORCH_LIBRARY_IMPL(fastfcs, CPU, library) {
  library.impl("gram", TORCH_BOX(&fastfcs::gram));
  library.impl("gram_correction", TORCH_BOX(&fastfcs::gram_correction));
  library.impl("gram_correction_backward", TORCH_BOX(&fastfcs::gram_correction_backward));
  library.impl("cross_gram", TORCH_BOX(&fastfcs::cross_gram));
  library.impl("level_gradient", TORCH_BOX(&fastfcs::level_gradient));
}
