// Products of thin matrices: C x n by n x C and C x C by C x n, where C is in the tens and n may be
// in the millions.
//
// Each chunk of pixels is first copied, row by row, into a buffer that fits into a cache. In place,
// the rows of h are often a large power of two apart and would evict each other from the same few
// cache sets. The copy also converts half types and pads rows to whole vectors and channels to
// whole quads with zeros, so that the loops below have no remainders.
#include "gram_rows.h"

#include <type_traits>
#include <utility>

#include "aligned.h"
#include "convert.h"

namespace fastfcs {
namespace FASTFCS_ISA {
namespace {

struct Chunk {
  int64_t slice, number;  // the chunk's number within its slice
  int64_t first, last;    // pixels [first, last)
  int64_t count() const { return last - first; }
};

// Iterates over the chunks of the slices before `end_slice`. Past the end, chunks are empty.
template <typename T>
struct ChunkSequence {
  const FeatureView<T>& x;
  int64_t end_slice;
  Chunk at(int64_t slice, int64_t number) const {
    if (slice == end_slice) return {slice, 0, 0, 0};
    const int64_t first = x.slice_begin(slice) + number * x.chunk_pixels;
    return {slice, number, first, smaller(first + x.chunk_pixels, x.slice_begin(slice + 1))};
  }
  Chunk after(const Chunk& c) const {
    if (c.slice == end_slice) return c;
    return c.last < x.slice_begin(c.slice + 1) ? at(c.slice, c.number + 1) : at(c.slice + 1, 0);
  }
};

// Copies a chunk of all rows, each padded with zeros to a multiple of `unit` elements. The work is
// spread over `calls` calls of advance(), which are interleaved with the arithmetic on the previous
// chunk: otherwise memory and arithmetic would wait for each other.
template <typename T>
class ChunkCopier {
  using A = accumulate_t<T>;

 public:
  ChunkCopier(const FeatureView<T>& x, const Chunk& chunk, int64_t unit, A* to, int64_t calls)
      : x_(x),
        first_(chunk.first),
        count_(chunk.count()),
        padded_(round_up(count_, unit)),
        stride_(x.copy_stride()),
        to_(to),
        calls_(calls),
        row_(count_ > 0 ? 0 : x.rows()) {}

  void advance() {
    for (due_ += x_.rows(); due_ >= calls_ && row_ < x_.rows(); due_ -= calls_) copy_row();
  }

 private:
  static constexpr int64_t kLineElements = 64 / sizeof(T), kPrefetchRows = 2;

  // Copies one row. Each cache line of it prefetches one of a later row. Not inlined, because the
  // surrounding loops need all registers.
  __attribute__((noinline)) void copy_row() {
    const int64_t first = first_, count = count_;  // kept in registers: stores cannot alias them
    const T* const from = x_.row(row_);
    const T* const later =
        row_ + kPrefetchRows < x_.rows() ? x_.row(row_ + kPrefetchRows) : nullptr;
    A* const to = to_ + row_++ * stride_;
    int64_t p = 0;
    if (from) {
      for (; p + kLineElements <= count; p += kLineElements) {
        if (later) __builtin_prefetch(later + first + p, 0, 2);  // into the L2 cache
        convert(from + first + p, to + p, kLineElements);
      }
      if (p < count) convert(from + first + p, to + p, count - p);
      p = count;
    }
    if (p < padded_) std::memset(to + p, 0, (padded_ - p) * sizeof(A));
  }

  const FeatureView<T>& x_;
  int64_t first_, count_, padded_, stride_;
  A* to_;
  int64_t calls_, row_, due_ = 0;  // due_ / calls_ rows are to be copied
};

template <typename V, typename A>
inline A horizontal_sum(const V& vector) {
  if constexpr (sizeof(V) == sizeof(A)) {
    return vector[0];
  } else {
    typedef A Half __attribute__((vector_size(sizeof(V) / 2)));
    Half halves[2];
    std::memcpy(halves, &vector, sizeof(V));
    return horizontal_sum<Half, A>(halves[0] + halves[1]);
  }
}

// to[k] += sum of the elements of s_k
template <typename V, typename A>
inline void add_horizontal_sums(const V& s0, const V& s1, const V& s2, const V& s3, A* to) {
#if FASTFCS_VECTOR == 64
  if constexpr (std::is_same<A, float>::value) {
    // All four at once, with half as many shuffles. The maskz forms avoid GCC's warnings about
    // uninitialised variables inside the plain intrinsics.
    const auto pairs = [](const V& a, const V& b) {
      const V low = _mm512_maskz_unpacklo_ps(-1, __m512(a), __m512(b));
      return __m512(low + V(_mm512_maskz_unpackhi_ps(-1, __m512(a), __m512(b))));
    };
    const __m512 a = pairs(s0, s1), b = pairs(s2, s3);
    __m128 quarters[4];
    store(quarters,
          V(_mm512_maskz_shuffle_ps(-1, a, b, 0x44)) + V(_mm512_maskz_shuffle_ps(-1, a, b, 0xee)));
    store(to, load<__m128>(to) + (quarters[0] + quarters[1] + quarters[2] + quarters[3]));
    return;
  }
#endif
  to[0] += horizontal_sum<V, A>(s0);
  to[1] += horizontal_sum<V, A>(s1);
  to[2] += horizontal_sum<V, A>(s2);
  to[3] += horizontal_sum<V, A>(s3);
}

// products[j][i] += a_i . b_j for I rows a and J rows b of a chunk's copy, [rows, stride]; `padded`
// is the length of the rows in whole vectors, `pitch` the row pitch of products. With `upper`,
// products with j < i are omitted. With `fetch`, prefetches two rows of features at the same time.
template <int I, int J, bool upper, bool fetch, typename A, typename T>
inline void add_products(const A* a, const A* b, int64_t stride, int64_t padded, A* products,
                         int64_t pitch, const T* fetch_0, const T* fetch_1) {
  using V = typename VectorOf<A>::type;
  V s[J][I] = {};
  for (int64_t p = 0; p < padded; p += sizeof(V) / sizeof(A)) {
    if constexpr (fetch) {
      __builtin_prefetch(fetch_0 + p, 0, 2);  // into the L2 cache
      __builtin_prefetch(fetch_1 + p, 0, 2);
    }
    V right[J];
    FASTFCS_UNROLL
    for (int j = 0; j < J; ++j) right[j] = load<V>(b + j * stride + p);
    FASTFCS_UNROLL
    for (int i = 0; i < I; ++i) {
      V left = upper ? right[i] : load<V>(a + i * stride + p);
#ifdef __AVX512F__
      // Keeps `left` in a register. GCC would load it again for each of the J products, more often
      // than the load units allow.
      asm("" : "+v"(left));
#endif
      FASTFCS_UNROLL
      for (int j = upper ? i : 0; j < J; ++j) s[j][i] = s[j][i] + left * right[j];
    }
  }
  FASTFCS_UNROLL
  for (int j = 0; j < J; ++j) FASTFCS_UNROLL
  for (int i = 0; i < I; i += 4)
    add_horizontal_sums<V>(s[j][i], s[j][i + 1], s[j][i + 2], s[j][i + 3],
                           products + j * pitch + i);
}

// The height of a block, as large as the registers allow: AVX-512 has 32 of them.
constexpr int kBlockHeight = FASTFCS_VECTOR == 64 ? 8 : 4;

// Calls block(i, j, height, width, upper) for every block of products x_i . x_j with i <= j (all j
// that belong to g). Blocks on the diagonal are 4 x 4, of which only ten sums are needed. All
// others are kBlockHeight x 3, or 2 wide at the end.
template <typename Block>
inline void for_each_block(int64_t channels, int64_t rows, Block block) {
  const auto quad = std::integral_constant<int, 4>();
  const auto off_diagonal = [&](int64_t i, int64_t j, auto height) {
    for (; rows - j >= 3 && rows - j != 4; j += 3)
      block(i, j, height, std::integral_constant<int, 3>(), std::false_type());
    for (; j < rows; j += 2)
      block(i, j, height, std::integral_constant<int, 2>(), std::false_type());
  };
  int64_t i = 0;
  if constexpr (kBlockHeight == 8) {
    for (; i + 8 <= channels; i += 8) {
      block(i, i, quad, quad, std::true_type());
      block(i, i + 4, quad, quad, std::false_type());
      block(i + 4, i + 4, quad, quad, std::true_type());
      off_diagonal(i, i + 8, std::integral_constant<int, 8>());
    }
  }
  for (; i < channels; i += 4) {
    block(i, i, quad, quad, std::true_type());
    off_diagonal(i, i + 4, quad);
  }
}

}  // namespace

template <typename T>
void slice_products(const FeatureView<T>& x, int64_t first, int64_t last, accumulate_t<T>* products,
                    accumulate_t<T>* copies) {
  using A = accumulate_t<T>;
  constexpr int64_t vector = sizeof(typename VectorOf<A>::type) / sizeof(A), unit = 3 * vector;
  const int64_t rows = x.rows(), channels = x.padded_channels(), stride = x.copy_stride();
  AlignedBuffer<A> memory(copies ? 0 : 2 * x.copy_size());
  A* chunk = memory.get();
  A* other = chunk + x.copy_size();
  const auto copy_of = [&](const Chunk& c) {
    return copies + ((c.slice - first) * x.slice_chunks + c.number) * x.copy_size();
  };
  std::memset(products, 0, (last - first) * channels * rows * sizeof(A));
  int64_t blocks = 0;
  for_each_block(channels, rows, [&](int64_t, int64_t, auto, auto, auto) { ++blocks; });
  // At any time, one chunk is multiplied, the next one copied and the one after it prefetched.
  const ChunkSequence<T> chunks{x, last};
  Chunk now = chunks.at(first, 0), next = chunks.after(now);
  if (copies) chunk = copy_of(now);
  ChunkCopier<T>(x, now, unit, chunk, 1).advance();
  while (now.slice < last) {
    if (copies) other = copy_of(next);
    A* const sums = products + (now.slice - first) * channels * rows;
    const int64_t padded = round_up(now.count(), vector);
    const Chunk later = chunks.after(next);
    ChunkCopier<T> copier(x, next, unit, other, blocks);
    int64_t row = later.count() > 0 ? 0 : rows;
    for_each_block(channels, rows, [&](int64_t i, int64_t j, auto height, auto width, auto upper) {
      copier.advance();
      const A *a = chunk + i * stride, *b = chunk + j * stride;
      A* const to = sums + j * channels + i;
      const T* const fetch_0 = row < rows ? x.row(row++) : nullptr;
      const T* const fetch_1 = row < rows ? x.row(row++) : nullptr;
      if (fetch_0 && fetch_1)
        add_products<height, width, upper, true>(a, b, stride, padded, to, channels,
                                                 fetch_0 + later.first, fetch_1 + later.first);
      else
        add_products<height, width, upper, false>(a, b, stride, padded, to, channels, fetch_0,
                                                  fetch_1);
    });
    std::swap(chunk, other);
    now = next;
    next = later;
  }
}

// to[k] = sum_i weights_ik from[i] for K rows of three vectors each, k-th row at to + k * pitch.
// Only the first `valid` rows are written.
template <int K, typename A>
inline void combine(const A* from, int64_t stride, int64_t rows, const A* weights, A* to,
                    int64_t pitch, int64_t valid, StorePolicy stores) {
  using V = typename VectorOf<A>::type;
  constexpr int64_t vector = sizeof(V) / sizeof(A);
  if (stores == StorePolicy::prefetched)
    for (int k = 0; k < valid; ++k)
      for (int v = 0; v < 3; ++v) __builtin_prefetch(to + k * pitch + v * vector, 1);
  V sums[K][3] = {};
  for (int64_t i = 0; i < rows; ++i, weights += 4, from += stride) {
    V values[3];
    FASTFCS_UNROLL
    for (int v = 0; v < 3; ++v) values[v] = load<V>(from + v * vector);
    FASTFCS_UNROLL
    for (int k = 0; k < K; ++k) {
      const A weight = weights[k / 4 * 4 * rows + k % 4];
      FASTFCS_UNROLL
      for (int v = 0; v < 3; ++v) sums[k][v] = sums[k][v] + weight * values[v];
    }
  }
#if FASTFCS_VECTOR == 64
  if (stores == StorePolicy::streaming) {
    FASTFCS_UNROLL
    for (int k = 0; k < K; ++k)
      if (k < valid) FASTFCS_UNROLL
    for (int v = 0; v < 3; ++v)
      _mm512_stream_si512(reinterpret_cast<__m512i*>(to + k * pitch + v * vector),
                          __m512i(sums[k][v]));
    return;
  }
#endif
  FASTFCS_UNROLL
  for (int k = 0; k < K; ++k)
    if (k < valid) FASTFCS_UNROLL
  for (int v = 0; v < 3; ++v) store(to + k * pitch + v * vector, sums[k][v]);
}

template <typename T>
void slice_combination(const FeatureView<T>& x, int64_t first, int64_t last,
                       const accumulate_t<T>* weights, const accumulate_t<T>* copies, T* result,
                       StorePolicy stores) {
  using A = accumulate_t<T>;
  constexpr int64_t unit = 3 * sizeof(typename VectorOf<A>::type) / sizeof(A);
  const int64_t rows = x.rows(), channels = x.padded_channels(), stride = x.copy_stride();
  AlignedBuffer<A> memory(copies ? 0 : 2 * x.copy_size());
  A* chunk = memory.get();
  A* other = chunk + x.copy_size();
  const ChunkSequence<T> chunks{x, last};
  Chunk now = chunks.at(first, 0);
  if (!copies) ChunkCopier<T>(x, now, unit, chunk, 1).advance();
  for (; now.slice < last; now = chunks.after(now)) {
    const A* const from =
        copies ? copies + ((now.slice - first) * x.slice_chunks + now.number) * x.copy_size()
               : chunk;
    const int64_t count = now.count();
    const int64_t blocks =
        round_up(channels, kBlockHeight) / kBlockHeight * (round_up(count, unit) / unit);
    ChunkCopier<T> copier(x, copies ? Chunk{} : chunks.after(now), unit, other, blocks);
    for (int64_t q = 0; q < count; q += unit) {
      const auto block = [&](int64_t j, auto height) {
        copier.advance();
        const int64_t valid = smaller(height, x.channels - j);
        T* const to = result + j * x.pixels + now.first + q;
        if constexpr (std::is_same<T, A>::value) {
          if (count - q >= unit) {
            combine<height>(from + q, stride, rows, weights + j * rows, to, x.pixels, valid,
                            stores);
            return;
          }
        }
        A values[height * unit];
        combine<height, A>(from + q, stride, rows, weights + j * rows, values, unit, height,
                           StorePolicy::cached);
        for (int64_t k = 0; k < valid; ++k)
          convert(values + k * unit, to + k * x.pixels, smaller(count - q, unit));
      };
      int64_t j = 0;
      for (; j + kBlockHeight <= channels; j += kBlockHeight)
        block(j, std::integral_constant<int, kBlockHeight>());
      for (; j < channels; j += 4) block(j, std::integral_constant<int, 4>());
    }
    std::swap(chunk, other);
  }
#if FASTFCS_VECTOR == 64
  if (stores == StorePolicy::streaming) _mm_sfence();  // orders the streaming stores
#endif
}

#define FASTFCS_INSTANTIATE(T)                                                                     \
  template void slice_products(const FeatureView<T>&, int64_t, int64_t, accumulate_t<T>*,          \
                               accumulate_t<T>*);                                                  \
  template void slice_combination(const FeatureView<T>&, int64_t, int64_t, const accumulate_t<T>*, \
                                  const accumulate_t<T>*, T*, StorePolicy);
FASTFCS_INSTANTIATE(float)
FASTFCS_INSTANTIATE(double)
FASTFCS_INSTANTIATE(Half)
FASTFCS_INSTANTIATE(BFloat16)
#undef FASTFCS_INSTANTIATE

}  // namespace FASTFCS_ISA
}  // namespace fastfcs
