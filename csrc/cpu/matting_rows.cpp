// FASTFCS_ISA names the instruction set that this object is compiled for, FASTFCS_VECTOR its vectors' bytes.
#include "matting_rows.h"

#include <algorithm>
#include <cstring>

#include "../matting.h"

namespace fastfcs {

typedef float FloatVector __attribute__((vector_size(FASTFCS_VECTOR)));
typedef double DoubleVector __attribute__((vector_size(FASTFCS_VECTOR)));

template <>
struct Scalar<FloatVector> {
  using type = float;
};
template <>
struct Scalar<DoubleVector> {
  using type = double;
};

namespace FASTFCS_ISA {
namespace {

template <typename T>
struct VectorOf;
template <>
struct VectorOf<float> {
  using type = FloatVector;
};
template <>
struct VectorOf<double> {
  using type = DoubleVector;
};

// V is T itself or its vector.
template <typename V, typename T>
inline V load(const T* from) {
  V value;
  std::memcpy(&value, from, sizeof(V));
  return value;
}

template <typename V, typename T>
inline void store(T* to, V value) {
  std::memcpy(to, &value, sizeof(V));
}

// A tile of columns, narrow enough for its working rows to stay in the first-level cache.
constexpr int kTile = 128;
constexpr int kRow = kTile + 16;  // the windows that reach into the tile, up to a whole number of vectors

// The working rows of a tile: for each of C signals the models' a_0, a_1, a_2, b. Entry j of a row is the window whose
// left column is first_column - 2 + j; windows that are not wholly inside the image are zero.
template <typename T, int C>
struct Rows {
  alignas(64) T models[3][4 * C][kRow];  // the last three window rows
  alignas(64) T sums[4 * C][kRow];       // their vertical sums
  alignas(64) T counts[kRow];            // how many window columns hold a pixel column
};

template <typename V, int C, typename T>
inline void model_at(const Product<T>& p, int64_t row, int64_t column, T (*models)[kRow], int64_t entry) {
  const auto [height, width] = p.size;
  const T* image = p.image + row * width + column;
  const T* x = p.x + row * width + column;
  const T* from = p.factors + row * (width - 2) + column;
  V factors[kFactors];
  FASTFCS_UNROLL
  for (int f = 0; f < kFactors; ++f) factors[f] = load<V>(from + f * p.size.windows());
  V a[C][3], b[C];
  window_models<C>(
      factors, [&](int c, int j) { return load<V>(image + c * p.size.pixels() + j / 3 * width + j % 3); },
      [&](int c, int j) { return load<V>(x + c * p.size.pixels() + j / 3 * width + j % 3); }, a, b);
  FASTFCS_UNROLL
  for (int c = 0; c < C; ++c) {
    FASTFCS_UNROLL
    for (int d = 0; d < 3; ++d) store(models[4 * c + d] + entry, a[c][d]);
    store(models[4 * c + 3] + entry, b[c]);
  }
}

// The models of window row `row`, of the windows from `first` to `last`. The last vector overlaps the one before it.
template <int C, typename T>
void model_row(const Product<T>& p, int64_t row, int64_t first, int64_t last, int64_t origin, T (*models)[kRow]) {
  using V = typename VectorOf<T>::type;
  constexpr int64_t n = sizeof(V) / sizeof(T);
  if (last - first < n) {
    for (int64_t v = first; v < last; ++v) model_at<T, C>(p, row, v, models, v - origin);
    return;
  }
  for (int64_t v = first; v < last; v += n) {
    const int64_t start = std::min(v, last - n);
    model_at<V, C>(p, row, start, models, start - origin);
  }
}

template <typename V, int C, Step step, typename T>
inline void pixel_at(const Product<T>& p, int64_t row, int64_t column, const Rows<T, C>& rows, int64_t entry, T windows) {
  const int64_t pixel = row * p.size.width + column;
  const V count = load<V>(rows.counts + entry) * windows;
  V image[3];
  for (int d = 0; d < 3; ++d) image[d] = load<V>(p.image + d * p.size.pixels() + pixel);
  FASTFCS_UNROLL
  for (int c = 0; c < C; ++c) {
    V sum[4];
    FASTFCS_UNROLL
    for (int d = 0; d < 4; ++d) {
      const T* from = rows.sums[4 * c + d] + entry;
      sum[d] = load<V>(from) + load<V>(from + 1) + load<V>(from + 2);
    }
    const int64_t at = c * p.size.pixels() + pixel;
    const V x = load<V>(p.x + at);
    const V l = laplacian_at(count, x, sum[0], sum[1], sum[2], sum[3], image[0], image[1], image[2]);
    if constexpr (step == Step::laplacian) {
      store(p.result + at, l);
    } else if constexpr (step == Step::chebyshev_first) {
      const V next = chebyshev_first(l, x);
      store(p.result + at, next);
      store(p.sum + at, p.c_0 * x + p.c_1 * next);
    } else {
      const V next = chebyshev_next(l, x, load<V>(p.result + at));
      store(p.result + at, next);
      store(p.sum + at, load<V>(p.sum + at) + p.c_1 * next);
    }
  }
}

template <int C, Step step, typename T>
void pixel_row(const Product<T>& p, int64_t row, int64_t first, int64_t last, Rows<T, C>& rows) {
  using V = typename VectorOf<T>::type;
  constexpr int64_t n = sizeof(V) / sizeof(T);
  for (int f = 0; f < 4 * C; ++f)
    for (int64_t j = 0; j < kRow; j += n)
      store(rows.sums[f] + j, load<V>(rows.models[0][f] + j) + load<V>(rows.models[1][f] + j) + load<V>(rows.models[2][f] + j));
  const int64_t height = p.size.height;
  const T windows = T(std::min(row, height - 3) - std::max<int64_t>(row - 2, 0) + 1);
  int64_t column = first;
  for (; column + n <= last; column += n) pixel_at<V, C, step>(p, row, column, rows, column - first, windows);
  for (; column < last; ++column) pixel_at<T, C, step>(p, row, column, rows, column - first, windows);
}

// Pixel rows [top, bottom) of the columns [first, last). Each window row's models are computed once and kept while one
// of the three pixel rows that need them is left.
template <int C, Step step, typename T>
void tile(const Product<T>& p, int64_t top, int64_t bottom, int64_t first, int64_t last) {
  const auto [height, width] = p.size;
  Rows<T, C> rows = {};
  for (int64_t x = first; x < last; ++x)
    rows.counts[x - first] = T(std::min(x, width - 3) - std::max<int64_t>(x - 2, 0) + 1);
  const int64_t left = std::max<int64_t>(first - 2, 0), right = std::min(last, width - 2);
  for (int64_t row = std::max<int64_t>(top - 2, 0); row < bottom; ++row) {
    auto* models = rows.models[row % 3];
    if (row < height - 2)
      model_row<C>(p, row, left, right, first - 2, models);
    else
      std::memset(models, 0, sizeof(rows.models[0]));
    if (row >= top) pixel_row<C, step>(p, row, first, last, rows);
  }
}

template <int C, typename T>
void steps(const Product<T>& p, int64_t top, int64_t bottom) {
  for (int64_t first = 0; first < p.size.width; first += kTile) {
    const int64_t last = std::min(first + kTile, p.size.width);
    switch (p.step) {
      case Step::laplacian: tile<C, Step::laplacian>(p, top, bottom, first, last); break;
      case Step::chebyshev_first: tile<C, Step::chebyshev_first>(p, top, bottom, first, last); break;
      case Step::chebyshev_next: tile<C, Step::chebyshev_next>(p, top, bottom, first, last); break;
    }
  }
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
  for (int64_t row = first; row < last; ++row)
    for (int64_t column = 0; column < size.width - 2; ++column) {
      double window[3][kWindow], result[kFactors];
      for (int c = 0; c < 3; ++c)
        for (int j = 0; j < kWindow; ++j)
          window[c][j] = image[c * size.pixels() + (row + j / 3) * size.width + column + j % 3];
      window_factors(window, eps, result);
      for (int f = 0; f < kFactors; ++f)
        factors[f * size.windows() + row * (size.width - 2) + column] = T(result[f]);
    }
}

template void product_rows(const Product<float>&, int64_t, int64_t);
template void product_rows(const Product<double>&, int64_t, int64_t);
template void factor_rows(Size, const float*, double, float*, int64_t, int64_t);
template void factor_rows(Size, const double*, double, double*, int64_t, int64_t);

}  // namespace FASTFCS_ISA
}  // namespace fastfcs
