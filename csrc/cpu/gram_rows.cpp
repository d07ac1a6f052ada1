// Products of thin matrices: C x n by n x C and C x C by C x n, C some tens and n up to millions.
//
// A chunk of pixels is copied, row by row, into memory that a cache holds: the rows of h lie a large power of two
// apart, so that in place they would fight for the same few cache lines. The copy also converts half types, and fills
// the last vectors and the last four channels with zeros, so that the loops below know neither.
#include "gram_rows.h"

#include <memory>
#include <type_traits>
#include <utility>

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif

#include "vector.h"

namespace fastfcs {
namespace FASTFCS_ISA {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t round_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

struct alignas(64) Line {
  char bytes[64];
};

template <typename A>
struct Memory {
  explicit Memory(int64_t count) : lines(new Line[(count * sizeof(A) + 63) / 64]) {}
  A* get() { return reinterpret_cast<A*>(lines.get()); }
  std::unique_ptr<Line[]> lines;
};

inline void convert(const float* from, float* to, int64_t count) { std::memcpy(to, from, count * sizeof(float)); }
inline void convert(const double* from, double* to, int64_t count) { std::memcpy(to, from, count * sizeof(double)); }

inline void convert(const BFloat16* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = uint32_t(from[i].x) << 16;
    std::memcpy(to + i, &bits, sizeof bits);
  }
}

inline void convert(const float* from, BFloat16* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, from + i, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;  // to nearest, ties to even
    to[i].x = (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded;      // NaN stays NaN
  }
}

#ifdef __F16C__
inline void convert(const Half* from, float* to, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) _mm256_storeu_ps(to + i, _mm256_cvtph_ps(load<__m128i>(from + i)));
  for (; i < count; ++i) to[i] = _cvtsh_ss(from[i].x);
}

inline void convert(const float* from, Half* to, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) store(to + i, _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
  for (; i < count; ++i) to[i].x = _cvtss_sh(from[i], _MM_FROUND_TO_NEAREST_INT);
}
#else
inline void convert(const Half* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}

inline void convert(const float* from, Half* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}
#endif

// A chunk of the slices from one to another.
struct Chunk {
  int64_t slice, number, first, last;  // of the slice, in the slice; pixels
  int64_t count() const { return last - first; }
};

// The chunks of these slices in their order, and empty ones afterwards.
template <typename T>
struct Chunks {
  const Features<T>& x;
  int64_t last;  // slice
  Chunk at(int64_t slice, int64_t number) const {
    if (slice == last) return {slice, 0, 0, 0};
    const int64_t first = x.start(slice) + number * x.chunk;
    return {slice, number, first, smaller(first + x.chunk, x.start(slice + 1))};
  }
  Chunk after(const Chunk& c) const {
    if (c.slice == last) return c;
    return c.last < x.start(c.slice + 1) ? at(c.slice, c.number + 1) : at(c.slice + 1, 0);
  }
};

// Copies a chunk of all rows, each followed by zeros up to whole units, in so many calls between the blocks of work on
// the chunk before: else memory and arithmetic would wait for each other.
template <typename T>
class Copy {
  using A = accumulate_t<T>;

 public:
  Copy(const Features<T>& x, const Chunk& chunk, int64_t unit, A* to, int64_t calls)
      : x_(x),
        first_(chunk.first),
        count_(chunk.count()),
        padded_(round_up(count_, unit)),
        stride_(x.stride()),
        to_(to),
        calls_(calls),
        row_(count_ > 0 ? 0 : x.rows()) {}

  void some() {
    for (due_ += x_.rows(); due_ >= calls_ && row_ < x_.rows(); due_ -= calls_) copy();
  }

 private:
  static constexpr int64_t kLine = 64 / sizeof(T), kAhead = 2;  // elements, rows

  // One row; each line of it fetches one of a later row. Not inlined, for the loops around it need all registers.
  __attribute__((noinline)) void copy() {
    const int64_t first = first_, count = count_;  // in registers, whatever is written
    const T* const from = x_.row(row_);
    const T* const later = row_ + kAhead < x_.rows() ? x_.row(row_ + kAhead) : nullptr;
    A* const to = to_ + row_++ * stride_;
    int64_t p = 0;
    if (from) {
      for (; p + kLine <= count; p += kLine) {
        if (later) __builtin_prefetch(later + first + p, 0, 2);  // into the second-level cache
        convert(from + first + p, to + p, kLine);
      }
      if (p < count) convert(from + first + p, to + p, count - p);
      p = count;
    }
    if (p < padded_) std::memset(to + p, 0, (padded_ - p) * sizeof(A));
  }

  const Features<T>& x_;
  int64_t first_, count_, padded_, stride_;
  A* to_;
  int64_t calls_, row_, due_ = 0;
};

template <typename V, typename A>
inline A sum_of(const V& vector) {
  if constexpr (sizeof(V) == sizeof(A)) {
    return vector[0];
  } else {
    typedef A Half __attribute__((vector_size(sizeof(V) / 2)));
    Half halves[2];
    std::memcpy(halves, &vector, sizeof(V));
    return sum_of<Half, A>(halves[0] + halves[1]);
  }
}

// to_k += sum of the elements of s_k.
template <typename V, typename A>
inline void add_sums(const V& s0, const V& s1, const V& s2, const V& s3, A* to) {
#if FASTFCS_VECTOR == 64
  if constexpr (std::is_same<A, float>::value) {
    // All four at once, with half of the shuffles; maskz, because GCC warns of the plain intrinsics' own variables.
    const auto pairs = [](const V& a, const V& b) {
      const V low = _mm512_maskz_unpacklo_ps(-1, __m512(a), __m512(b));
      return __m512(low + V(_mm512_maskz_unpackhi_ps(-1, __m512(a), __m512(b))));
    };
    const __m512 a = pairs(s0, s1), b = pairs(s2, s3);
    __m128 quarters[4];
    store(quarters, V(_mm512_maskz_shuffle_ps(-1, a, b, 0x44)) + V(_mm512_maskz_shuffle_ps(-1, a, b, 0xee)));
    store(to, load<__m128>(to) + (quarters[0] + quarters[1] + quarters[2] + quarters[3]));
    return;
  }
#endif
  to[0] += sum_of<V, A>(s0);
  to[1] += sum_of<V, A>(s1);
  to[2] += sum_of<V, A>(s2);
  to[3] += sum_of<V, A>(s3);
}

// products_ji += a_i . b_j for I rows a and J rows b; `upper` leaves out j < i. Meanwhile fetches two rows for later.
template <int I, int J, bool upper, bool fetch, typename A, typename T>
inline void add_products(const A* a, const A* b, int64_t stride, int64_t padded, A* products, int64_t outputs,
                         const T* later, const T* later_too) {
  using V = typename VectorOf<A>::type;
  V s[J][I] = {};
  for (int64_t p = 0; p < padded; p += sizeof(V) / sizeof(A)) {
    if constexpr (fetch) {
      __builtin_prefetch(later + p, 0, 2);  // into the second-level cache
      __builtin_prefetch(later_too + p, 0, 2);
    }
    V right[J];
    FASTFCS_UNROLL
    for (int j = 0; j < J; ++j) right[j] = load<V>(b + j * stride + p);
    FASTFCS_UNROLL
    for (int i = 0; i < I; ++i) {
      V left = upper ? right[i] : load<V>(a + i * stride + p);
#ifdef __AVX512F__
      asm("" : "+v"(left));  // or GCC loads it again for every product, more than the load units can
#endif
      FASTFCS_UNROLL
      for (int j = upper ? i : 0; j < J; ++j) s[j][i] = s[j][i] + left * right[j];
    }
  }
  FASTFCS_UNROLL
  for (int j = 0; j < J; ++j)
    FASTFCS_UNROLL
    for (int i = 0; i < I; i += 4)
      add_sums<V>(s[j][i], s[j][i + 1], s[j][i + 2], s[j][i + 3], products + j * outputs + i);
}

// Rows of a block as high as the registers allow: AVX-512 has 32.
constexpr int kTall = FASTFCS_VECTOR == 64 ? 8 : 4;

// Calls block(i, j, rows, columns, upper) for the blocks of the products that are wanted: four by four on the diagonal,
// where only ten sums are needed, and beside it kTall rows by three columns, with twos at the end.
template <typename Block>
inline void each_block(int64_t outputs, int64_t rows, Block block) {
  const auto four = std::integral_constant<int, 4>();
  const auto beside = [&](int64_t i, int64_t j, auto tall) {
    for (; rows - j >= 3 && rows - j != 4; j += 3)
      block(i, j, tall, std::integral_constant<int, 3>(), std::false_type());
    for (; j < rows; j += 2) block(i, j, tall, std::integral_constant<int, 2>(), std::false_type());
  };
  int64_t i = 0;
  if constexpr (kTall == 8) {
    for (; i + 8 <= outputs; i += 8) {
      block(i, i, four, four, std::true_type());
      block(i, i + 4, four, four, std::false_type());
      block(i + 4, i + 4, four, four, std::true_type());
      beside(i, i + 8, std::integral_constant<int, 8>());
    }
  }
  for (; i < outputs; i += 4) {
    block(i, i, four, four, std::true_type());
    beside(i, i + 4, four);
  }
}

}  // namespace

template <typename T>
void slice_products(const Features<T>& x, int64_t first, int64_t last, accumulate_t<T>* products,
                    accumulate_t<T>* copies) {
  using A = accumulate_t<T>;
  constexpr int64_t vector = sizeof(typename VectorOf<A>::type) / sizeof(A), three = 3 * vector;
  const int64_t rows = x.rows(), outputs = x.outputs(), stride = x.stride();
  Memory<A> memory(copies ? 0 : 2 * x.copy());
  A* chunk = memory.get();
  A* other = chunk + x.copy();
  const auto kept = [&](const Chunk& c) { return copies + ((c.slice - first) * x.chunks + c.number) * x.copy(); };
  std::memset(products, 0, (last - first) * outputs * rows * sizeof(A));
  int64_t blocks = 0;
  each_block(outputs, rows, [&](int64_t, int64_t, auto, auto, auto) { ++blocks; });
  // One chunk is multiplied, one copied and one fetched at a time.
  const Chunks<T> chunks{x, last};
  Chunk now = chunks.at(first, 0), next = chunks.after(now);
  if (copies) chunk = kept(now);
  Copy<T>(x, now, three, chunk, 1).some();
  while (now.slice < last) {
    if (copies) other = kept(next);
    A* const sums = products + (now.slice - first) * outputs * rows;
    const int64_t padded = round_up(now.count(), vector);
    const Chunk later = chunks.after(next);
    Copy<T> ahead(x, next, three, other, blocks);
    int64_t row = later.count() > 0 ? 0 : rows;
    each_block(outputs, rows, [&](int64_t i, int64_t j, auto tall, auto wide, auto upper) {
      ahead.some();
      const A *a = chunk + i * stride, *b = chunk + j * stride;
      A* const to = sums + j * outputs + i;
      const T* const one = row < rows ? x.row(row++) : nullptr;
      const T* const two = row < rows ? x.row(row++) : nullptr;
      if (one && two)
        add_products<tall, wide, upper, true>(a, b, stride, padded, to, outputs, one + later.first, two + later.first);
      else
        add_products<tall, wide, upper, false>(a, b, stride, padded, to, outputs, one, two);
    });
    std::swap(chunk, other);
    now = next;
    next = later;
  }
}

// K rows of results, three vectors each, of which the first `wanted` go to `to` and beyond, `apart` from each other.
template <int K, typename A>
inline void combine(const A* from, int64_t stride, int64_t rows, const A* weights, A* to, int64_t apart, int64_t wanted,
                    Stores stores) {
  using V = typename VectorOf<A>::type;
  constexpr int64_t vector = sizeof(V) / sizeof(A);
  if (stores == Stores::fetched)
    for (int k = 0; k < wanted; ++k)
      for (int v = 0; v < 3; ++v) __builtin_prefetch(to + k * apart + v * vector, 1);
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
  if (stores == Stores::past_caches) {
    FASTFCS_UNROLL
    for (int k = 0; k < K; ++k)
      if (k < wanted)
        FASTFCS_UNROLL
        for (int v = 0; v < 3; ++v)
          _mm512_stream_si512(reinterpret_cast<__m512i*>(to + k * apart + v * vector), __m512i(sums[k][v]));
    return;
  }
#endif
  FASTFCS_UNROLL
  for (int k = 0; k < K; ++k)
    if (k < wanted)
      FASTFCS_UNROLL
      for (int v = 0; v < 3; ++v) store(to + k * apart + v * vector, sums[k][v]);
}

template <typename T>
void slice_combination(const Features<T>& x, int64_t first, int64_t last, const accumulate_t<T>* weights,
                       const accumulate_t<T>* copies, T* result, Stores stores) {
  using A = accumulate_t<T>;
  constexpr int64_t three = 3 * sizeof(typename VectorOf<A>::type) / sizeof(A);
  const int64_t rows = x.rows(), outputs = x.outputs(), stride = x.stride();
  Memory<A> memory(copies ? 0 : 2 * x.copy());
  A* chunk = memory.get();
  A* other = chunk + x.copy();
  const Chunks<T> chunks{x, last};
  Chunk now = chunks.at(first, 0);
  if (!copies) Copy<T>(x, now, three, chunk, 1).some();
  for (; now.slice < last; now = chunks.after(now)) {
    const A* const from = copies ? copies + ((now.slice - first) * x.chunks + now.number) * x.copy() : chunk;
    const int64_t count = now.count(), blocks = round_up(outputs, kTall) / kTall * (round_up(count, three) / three);
    Copy<T> ahead(x, copies ? Chunk{} : chunks.after(now), three, other, blocks);
    for (int64_t q = 0; q < count; q += three) {
      const auto block = [&](int64_t j, auto tall) {
        ahead.some();
        const int64_t wanted = smaller(tall, x.channels - j);
        T* const to = result + j * x.pixels + now.first + q;
        if constexpr (std::is_same<T, A>::value) {
          if (count - q >= three) {
            combine<tall>(from + q, stride, rows, weights + j * rows, to, x.pixels, wanted, stores);
            return;
          }
        }
        A values[tall * three];
        combine<tall, A>(from + q, stride, rows, weights + j * rows, values, three, tall, Stores::cached);
        for (int64_t k = 0; k < wanted; ++k)
          convert(values + k * three, to + k * x.pixels, smaller(count - q, three));
      };
      int64_t j = 0;
      for (; j + kTall <= outputs; j += kTall) block(j, std::integral_constant<int, kTall>());
      for (; j < outputs; j += 4) block(j, std::integral_constant<int, 4>());
    }
    std::swap(chunk, other);
  }
#if FASTFCS_VECTOR == 64
  if (stores == Stores::past_caches) _mm_sfence();  // such stores are in no order otherwise
#endif
}

#define FASTFCS_DEFINE(T)                                                                                       \
  template void slice_products(const Features<T>&, int64_t, int64_t, accumulate_t<T>*, accumulate_t<T>*);       \
  template void slice_combination(const Features<T>&, int64_t, int64_t, const accumulate_t<T>*,                 \
                                  const accumulate_t<T>*, T*, Stores);
FASTFCS_DEFINE(float)
FASTFCS_DEFINE(double)
FASTFCS_DEFINE(Half)
FASTFCS_DEFINE(BFloat16)

}  // namespace FASTFCS_ISA
}  // namespace fastfcs
