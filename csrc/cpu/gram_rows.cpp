// Products of thin matrices: C x n by n x C and C x C by C x n, C some tens and n up to millions.
//
// A chunk of pixels is copied, row by row, into memory that the second-level cache holds: the rows of h lie a large power
// of two apart, so that in place they would fight for the same few cache lines. The copy also converts half types, and
// fills the last vector and the last four channels with zeros, so that the loops below know neither.
#include "gram_rows.h"

#include <memory>

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

// Pixels of a chunk, whole blocks of three vectors in any instruction set. Long rows please the prefetchers.
constexpr int64_t chunk_of(int64_t rows) { return rows <= 64 ? 768 : rows <= 256 ? 384 : 192; }

// A row of a chunk is longer by 16 elements, so that rows do not begin in the same cache sets.
constexpr int64_t stride_of(int64_t rows) { return chunk_of(rows) + 16; }

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

// Pixels [first, first + count) of all rows, each followed by zeros up to `padded`, `stride` apart.
template <typename T, typename A>
void copy_chunk(const Features<T>& x, int64_t first, int64_t count, int64_t padded, int64_t stride, A* chunk) {
  for (int64_t row = 0; row < x.rows(); ++row, chunk += stride) {
    const T* from = x.row(row);
    const int64_t copied = from ? count : 0;
    if (from) convert(from + first, chunk, count);
    std::memset(chunk + copied, 0, (padded - copied) * sizeof(A));
  }
}

// Fetches pixels [first, first + count) of all rows, the next chunk, in so many calls, while the last one is worked on:
// else memory and arithmetic would wait for each other.
template <typename T>
class Ahead {
 public:
  Ahead(const Features<T>& x, int64_t first, int64_t count, int64_t calls)
      : x_(x), first_(first), count_(count), lines_((x.rows() * ((count + kLine - 1) / kLine) + calls - 1) / calls) {}

  void fetch() {
    for (int64_t line = 0; line < lines_ && row_ < x_.rows(); ++line) {
      if (const T* from = x_.row(row_)) __builtin_prefetch(from + first_ + at_, 0, 2);  // into the second-level cache
      at_ += kLine;
      if (at_ >= count_) at_ = 0, ++row_;
    }
  }

 private:
  static constexpr int64_t kLine = 64 / sizeof(T);
  const Features<T>& x_;
  int64_t first_, count_, lines_, row_ = 0, at_ = 0;
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

// products_ij += a_i . b_j for four rows a and J rows b; `upper` leaves out j < i.
template <int J, bool upper, typename A>
inline void add_products(const A* a, const A* b, int64_t stride, int64_t padded, A* products, int64_t rows) {
  using V = typename VectorOf<A>::type;
  V s[4][J] = {};
  for (int64_t p = 0; p < padded; p += sizeof(V) / sizeof(A)) {
    V right[J];
    FASTFCS_UNROLL
    for (int j = 0; j < J; ++j) right[j] = load<V>(b + j * stride + p);
    FASTFCS_UNROLL
    for (int i = 0; i < 4; ++i) {
      const V left = upper ? right[i] : load<V>(a + i * stride + p);
      FASTFCS_UNROLL
      for (int j = upper ? i : 0; j < J; ++j) s[i][j] = s[i][j] + left * right[j];
    }
  }
  FASTFCS_UNROLL
  for (int i = 0; i < 4; ++i)
    FASTFCS_UNROLL
    for (int j = upper ? i : 0; j < J; ++j) products[i * rows + j] += sum_of<V, A>(s[i][j]);
}

// Calls block(i, j, upper, columns) for the blocks of the products that are wanted: four by four on the diagonal, of
// which ten sums, and else four by as many as fill the registers (16, or AVX-512's 32), with fours by two at the end.
template <typename Block>
inline void each_block(int64_t outputs, int64_t rows, Block block) {
  constexpr int wide = FASTFCS_VECTOR == 64 ? 6 : 3;
  for (int64_t i = 0; i < outputs; i += 4) {
    block(i, i, std::true_type(), std::integral_constant<int, 4>());
    int64_t j = i + 4;
    for (; rows - j >= wide && rows - j != wide + 1; j += wide)
      block(i, j, std::false_type(), std::integral_constant<int, wide>());
    for (; j < rows; j += 2) block(i, j, std::false_type(), std::integral_constant<int, 2>());
  }
}

}  // namespace

template <typename T>
void slice_products(const Features<T>& x, int64_t first, int64_t last, accumulate_t<T>* products) {
  using A = accumulate_t<T>;
  constexpr int64_t vector = sizeof(typename VectorOf<A>::type) / sizeof(A);
  const int64_t rows = x.rows(), outputs = x.outputs();
  const int64_t pixels = chunk_of(rows), stride = stride_of(rows);
  Memory<A> memory(rows * stride);
  A* const chunk = memory.get();
  std::memset(products, 0, outputs * rows * sizeof(A));
  int64_t blocks = 0;
  each_block(outputs, rows, [&](int64_t, int64_t, auto, auto) { ++blocks; });
  for (int64_t p = first; p < last; p += pixels) {
    const int64_t count = last - p < pixels ? last - p : pixels;
    const int64_t padded = (count + vector - 1) / vector * vector;
    copy_chunk(x, p, count, padded, stride, chunk);
    Ahead<T> ahead(x, p + count, last - p - count < pixels ? last - p - count : pixels, blocks);
    each_block(outputs, rows, [&](int64_t i, int64_t j, auto upper, auto columns) {
      ahead.fetch();
      add_products<columns, upper>(chunk + i * stride, chunk + j * stride, stride, padded, products + i * rows + j, rows);
    });
  }
}

template <typename T>
void slice_combination(const Features<T>& x, int64_t first, int64_t last, const accumulate_t<T>* weights, T* result) {
  using A = accumulate_t<T>;
  using V = typename VectorOf<A>::type;
  constexpr int64_t vector = sizeof(V) / sizeof(A);
  const int64_t rows = x.rows(), pixels = chunk_of(rows), stride = stride_of(rows);
  Memory<A> memory(rows * stride + 4 * stride);
  A* const chunk = memory.get();
  A* const four = chunk + rows * stride;
  for (int64_t p = first; p < last; p += pixels) {
    const int64_t count = last - p < pixels ? last - p : pixels;
    const int64_t padded = (count + 3 * vector - 1) / (3 * vector) * (3 * vector);
    copy_chunk(x, p, count, padded, stride, chunk);
    Ahead<T> ahead(x, p + count, last - p - count < pixels ? last - p - count : pixels,
                   x.outputs() / 4 * (padded / (3 * vector)));
    for (int64_t j = 0; j < x.outputs(); j += 4) {
      for (int64_t q = 0; q < padded; q += 3 * vector) {
        ahead.fetch();
        V sums[4][3] = {};
        const A* weight = weights + j * rows;
        const A* from = chunk + q;
        for (int64_t i = 0; i < rows; ++i, weight += 4, from += stride) {
          V values[3];
          FASTFCS_UNROLL
          for (int v = 0; v < 3; ++v) values[v] = load<V>(from + v * vector);
          FASTFCS_UNROLL
          for (int k = 0; k < 4; ++k)
            FASTFCS_UNROLL
            for (int v = 0; v < 3; ++v) sums[k][v] = sums[k][v] + weight[k] * values[v];
        }
        FASTFCS_UNROLL
        for (int k = 0; k < 4; ++k)
          FASTFCS_UNROLL
          for (int v = 0; v < 3; ++v) store(four + k * stride + q + v * vector, sums[k][v]);
      }
      for (int64_t k = 0; k < 4 && j + k < x.channels; ++k)
        convert(four + k * stride, result + (j + k) * x.pixels + p, count);
    }
  }
}

#define FASTFCS_DEFINE(T)                                                                                    \
  template void slice_products(const Features<T>&, int64_t, int64_t, accumulate_t<T>*);                      \
  template void slice_combination(const Features<T>&, int64_t, int64_t, const accumulate_t<T>*, T*);
FASTFCS_DEFINE(float)
FASTFCS_DEFINE(double)
FASTFCS_DEFINE(Half)
FASTFCS_DEFINE(BFloat16)

}  // namespace FASTFCS_ISA
}  // namespace fastfcs
