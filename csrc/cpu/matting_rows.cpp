#include "matting_rows.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "vector.h"

namespace fastfcs {

template <>
struct Scalar<FASTFCS_ISA::FloatVector> {
  using type = float;
};
template <>
struct Scalar<FASTFCS_ISA::DoubleVector> {
  using type = double;
};

namespace FASTFCS_ISA {
namespace {

// The widest tile of columns: what is kept of its window rows fits into the second-level cache, and its rows of pixels
// are long enough for the prefetchers.
constexpr int64_t kTile = 1024;
// The entries before a row's first window: two stand for windows outside the image, the rest align the first one,
// because a store across two cache lines costs as much as several.
constexpr int64_t kBefore = 16;

// The working memory of a tile: for each of C signals the models' a_0, a_1, a_2, b.
template <typename T, int C>
struct Rows {
  // The models of the last two window rows, vector after vector, the fields of each side by side.
  alignas(64) T models[2][4 * C * (kTile + 16)];
  // Their sums with the current row, field after field. Windows that are not wholly inside the image stay zero.
  alignas(64) T sums[4 * C][kBefore + kTile + 16];
  alignas(64) T counts[kTile];  // how many window columns hold a pixel column
  int64_t first, last;          // pixel columns
  int64_t left, right;          // left columns of the windows that hold them
};

// Into the second-level cache, for the next row: tiles are too narrow for the hardware to foresee it.
template <typename T>
inline void fetch(const T* from) {
  __builtin_prefetch(from, 0, 2);
}

// Vector number `slot` of a window row, whose first window is at `column`. Below the last row the models are zero.
template <typename V, int C, typename T>
inline void model_at(const Product<T>& p, int64_t row, int64_t column, int64_t slot, Rows<T, C>& rows) {
  const auto [height, width] = p.size;
  V a[C][3] = {}, b[C] = {};
  if (row < height - 2) {
    const T* image = p.image + row * width + column;
    const T* x = p.x + row * width + column;
    const T* from = p.factors + row * (width - 2) + column;
    V factors[kFactors];
    FASTFCS_UNROLL
    for (int f = 0; f < kFactors; ++f) {
      factors[f] = load<V>(from + f * p.size.windows());
      fetch(from + f * p.size.windows() + width - 2);
    }
    FASTFCS_UNROLL
    for (int c = 0; c < 3; ++c) fetch(image + c * p.size.pixels() + 3 * width);
    FASTFCS_UNROLL
    for (int c = 0; c < C; ++c) fetch(x + c * p.size.pixels() + 3 * width);
    window_models<C>(
        factors, [&](int c, int j) { return load<V>(image + c * p.size.pixels() + j / 3 * width + j % 3); },
        [&](int c, int j) { return load<V>(x + c * p.size.pixels() + j / 3 * width + j % 3); }, a, b);
  }
  constexpr int64_t n = sizeof(V) / sizeof(T);
  const int64_t entry = kBefore + column - rows.left;
  T* above_1 = rows.models[(row + 1) % 2] + slot * 4 * C * n;
  T* above_2 = rows.models[row % 2] + slot * 4 * C * n;
  FASTFCS_UNROLL
  for (int c = 0; c < C; ++c) {
    FASTFCS_UNROLL
    for (int d = 0; d < 4; ++d) {
      const V value = d < 3 ? a[c][d] : b[c];
      const int64_t at = (4 * c + d) * n;
      store(rows.sums[4 * c + d] + entry, load<V>(above_2 + at) + load<V>(above_1 + at) + value);
      store(above_2 + at, value);
    }
  }
}

// A row of windows. The last vector is moved back to end with the row; it overlaps the one before, which does no harm.
template <int C, typename T>
void models_of(const Product<T>& p, int64_t row, Rows<T, C>& rows) {
  using V = typename VectorOf<T>::type;
  constexpr int64_t n = sizeof(V) / sizeof(T);
  const auto [left, right] = std::pair(rows.left, rows.right);
  if (right - left < n)
    for (int64_t v = left; v < right; ++v) model_at<T, C>(p, row, v, v - left, rows);
  else
    for (int64_t v = left, slot = 0; v < right; v += n, ++slot)
      model_at<V, C>(p, row, std::min(v, right - n), slot, rows);
}

template <typename V, int C, Step step, typename T>
inline void pixel_at(const Product<T>& p, int64_t row, int64_t column, T windows, const Rows<T, C>& rows) {
  const int64_t pixels = p.size.pixels(), pixel = row * p.size.width + column;
  const int64_t entry = kBefore + column - 2 - rows.left;
  const V count = load<V>(rows.counts + column - rows.first) * windows;
  V image[3];
  for (int d = 0; d < 3; ++d) image[d] = load<V>(p.image + d * pixels + pixel);
  FASTFCS_UNROLL
  for (int c = 0; c < C; ++c) {
    V sum[4];
    FASTFCS_UNROLL
    for (int d = 0; d < 4; ++d) {
      const T* from = rows.sums[4 * c + d] + entry;
      sum[d] = load<V>(from) + load<V>(from + 1) + load<V>(from + 2);
    }
    const V x = load<V>(p.x + c * pixels + pixel);
    const V l = laplacian_at(count, x, sum[0], sum[1], sum[2], sum[3], image[0], image[1], image[2]);
    T* result = p.result + c * pixels + pixel;
    if constexpr (step == Step::laplacian) {
      store(result, l);
    } else {
      V before{}, next;
      if constexpr (step == Step::chebyshev_first) {
        next = chebyshev_first(l, x);
      } else {
        before = load<V>(p.previous + c * pixels + pixel);
        fetch(p.previous + c * pixels + pixel + p.size.width);
        next = chebyshev_next(l, x, before);
      }
      store(result, next);
      if (p.sum.to) {
        T* to = p.sum.to + c * pixels + pixel;
        const V terms = p.sum.previous * before + p.sum.current * x + p.sum.next * next;
        store(to, p.sum.started ? load<V>(to) + terms : terms);
      }
    }
  }
}

template <int C, Step step, typename T>
void pixels_of(const Product<T>& p, int64_t row, const Rows<T, C>& rows) {
  using V = typename VectorOf<T>::type;
  constexpr int64_t n = sizeof(V) / sizeof(T);
  const T windows = T(std::min(row, p.size.height - 3) - std::max<int64_t>(row - 2, 0) + 1);
  int64_t column = rows.first;
  for (; column + n <= rows.last; column += n) pixel_at<V, C, step>(p, row, column, windows, rows);
  for (; column < rows.last; ++column) pixel_at<T, C, step>(p, row, column, windows, rows);
}

// Pixel rows [top, bottom) of the columns [first, last). Each window row's models are computed once and kept while one
// of the three pixel rows that need them is left; a pixel needs the windows whose left column is its own or one of the
// two before.
template <int C, Step step, typename T>
void tile(const Product<T>& p, int64_t top, int64_t bottom, int64_t first, int64_t last, Rows<T, C>& rows) {
  const int64_t width = p.size.width;
  rows.first = first;
  rows.last = last;
  rows.left = std::max<int64_t>(first - 2, 0);
  rows.right = std::min(last, width - 2);
  const int64_t used = std::min(last - rows.left, kTile) + 16;  // a small image does not wait for a whole tile
  for (auto& models : rows.models) std::fill_n(models, 4 * C * used, T(0));
  for (auto& sums : rows.sums) std::fill_n(sums, kBefore + used, T(0));
  for (int64_t x = first; x < last; ++x)
    rows.counts[x - first] = T(std::min(x, width - 3) - std::max<int64_t>(x - 2, 0) + 1);
  for (int64_t row = std::max<int64_t>(top - 2, 0); row < bottom; ++row) {
    models_of(p, row, rows);
    if (row >= top) pixels_of<C, step>(p, row, rows);
  }
}

template <int C, typename T>
void steps(const Product<T>& p, int64_t top, int64_t bottom) {
  const std::unique_ptr<Rows<T, C>> rows(new Rows<T, C>);
  const int64_t tiles = (p.size.width + kTile - 1) / kTile;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t first = p.size.width * i / tiles, last = p.size.width * (i + 1) / tiles;
    switch (p.step) {
      case Step::laplacian: tile<C, Step::laplacian>(p, top, bottom, first, last, *rows); break;
      case Step::chebyshev_first: tile<C, Step::chebyshev_first>(p, top, bottom, first, last, *rows); break;
      case Step::chebyshev_next: tile<C, Step::chebyshev_next>(p, top, bottom, first, last, *rows); break;
    }
  }
}

// V is double or its vector: as many windows, from `column` on.
template <typename V, typename T>
inline void factors_at(Size size, const T* image, double eps, T* factors, int64_t row, int64_t column) {
  V window[3][kWindow], result[kFactors];
  FASTFCS_UNROLL
  for (int c = 0; c < 3; ++c)
    FASTFCS_UNROLL
    for (int j = 0; j < kWindow; ++j)
      window[c][j] = load_as<V>(image + c * size.pixels() + (row + j / 3) * size.width + column + j % 3);
  window_factors(window, eps, result);
  FASTFCS_UNROLL
  for (int f = 0; f < kFactors; ++f)
    store_as(factors + f * size.windows() + row * (size.width - 2) + column, result[f]);
}

}  // namespace

template <typename T>
void product_rows(const Product<T>& product, int64_t first, int64_t last) {
  switch (product.channels) {
    case 1: return steps<1>(product, first, last);
    case 2: return steps<2>(product, first, last);
    case 3: return steps<3>(product, first, last);
  }
}

template <typename T>
void factor_rows(Size size, const T* image, double eps, T* factors, int64_t first, int64_t last) {
  constexpr int64_t n = sizeof(DoubleVector) / sizeof(double);
  const int64_t windows = size.width - 2;
  for (int64_t row = first; row < last; ++row)
    if (windows < n)
      for (int64_t column = 0; column < windows; ++column) factors_at<double>(size, image, eps, factors, row, column);
    else
      for (int64_t column = 0; column < windows; column += n)
        factors_at<DoubleVector>(size, image, eps, factors, row, std::min(column, windows - n));
}

template void product_rows(const Product<float>&, int64_t, int64_t);
template void product_rows(const Product<double>&, int64_t, int64_t);
template void factor_rows(Size, const float*, double, float*, int64_t, int64_t);
template void factor_rows(Size, const double*, double, double*, int64_t, int64_t);

}  // namespace FASTFCS_ISA
}  // namespace fastfcs
