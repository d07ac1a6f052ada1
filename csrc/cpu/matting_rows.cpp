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

// The maximum number of columns per tile. The buffers of a tile fit into the L2 cache, and its rows
// of pixels are long enough for the hardware prefetchers.
constexpr int64_t kTileColumns = 1024;
// Entries before the first window of a row. Two of them stand for windows outside the image. The
// others align the first window: a store across two cache lines costs as much as several.
constexpr int64_t kMargin = 16;

// Working memory of a tile: the four model coefficients a_0, a_1, a_2, b of each of C signals.
template <typename T, int C>
struct TileBuffers {
  // Models of the last two window rows [row % 2]. Each vector of windows stores its 4 C
  // coefficients side by side: [vector][coefficient][lane].
  alignas(64) T models[2][4 * C * (kTileColumns + 16)];
  // Their sums with the current row: [coefficient][kMargin + window]. Entries of windows that are
  // not entirely inside the image stay zero.
  alignas(64) T sums[4 * C][kMargin + kTileColumns + 16];
  alignas(64) T counts[kTileColumns];  // number of window columns that contain a pixel column
  int64_t first, last;                 // pixel columns
  int64_t left, right;                 // left columns of the windows that contain them
};

// Prefetches into the L2 cache, for the next row. Tiles are too narrow for the hardware prefetchers
// to do so.
template <typename T>
inline void prefetch(const T* from) {
  __builtin_prefetch(from, 0, 2);
}

// Computes the models of vector number `slot` of a window row, whose first window is at `column`.
// Below the last window row the models are zero.
template <typename V, int C, typename T>
inline void compute_models(const StepArguments<T>& p, int64_t row, int64_t column, int64_t slot,
                           TileBuffers<T, C>& tile) {
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
      prefetch(from + f * p.size.windows() + width - 2);
    }
    FASTFCS_UNROLL
    for (int c = 0; c < 3; ++c) prefetch(image + c * p.size.pixels() + 3 * width);
    FASTFCS_UNROLL
    for (int c = 0; c < C; ++c) prefetch(x + c * p.size.pixels() + 3 * width);
    window_models<C>(
        factors,
        [&](int c, int j) { return load<V>(image + c * p.size.pixels() + j / 3 * width + j % 3); },
        [&](int c, int j) { return load<V>(x + c * p.size.pixels() + j / 3 * width + j % 3); }, a,
        b);
  }
  constexpr int64_t n = sizeof(V) / sizeof(T);
  const int64_t entry = kMargin + column - tile.left;
  T* above_1 = tile.models[(row + 1) % 2] + slot * 4 * C * n;
  T* above_2 = tile.models[row % 2] + slot * 4 * C * n;
  FASTFCS_UNROLL
  for (int c = 0; c < C; ++c) {
    FASTFCS_UNROLL
    for (int d = 0; d < 4; ++d) {
      const V value = d < 3 ? a[c][d] : b[c];
      const int64_t at = (4 * c + d) * n;
      store(tile.sums[4 * c + d] + entry, load<V>(above_2 + at) + load<V>(above_1 + at) + value);
      store(above_2 + at, value);
    }
  }
}

// Computes a row of windows. The last vector is moved left to end with the row. Where it overlaps
// the one before, it stores the same values again.
template <int C, typename T>
void compute_model_row(const StepArguments<T>& p, int64_t row, TileBuffers<T, C>& tile) {
  using V = typename VectorOf<T>::type;
  constexpr int64_t n = sizeof(V) / sizeof(T);
  const auto [left, right] = std::pair(tile.left, tile.right);
  if (right - left < n)
    for (int64_t v = left; v < right; ++v) compute_models<T, C>(p, row, v, v - left, tile);
  else
    for (int64_t v = left, slot = 0; v < right; v += n, ++slot)
      compute_models<V, C>(p, row, std::min(v, right - n), slot, tile);
}

template <typename V, int C, StepKind kind, typename T>
inline void compute_pixels(const StepArguments<T>& p, int64_t row, int64_t column, T windows,
                           const TileBuffers<T, C>& tile) {
  const int64_t pixels = p.size.pixels(), pixel = row * p.size.width + column;
  const int64_t entry = kMargin + column - 2 - tile.left;
  const V count = load<V>(tile.counts + column - tile.first) * windows;
  V image[3];
  for (int d = 0; d < 3; ++d) image[d] = load<V>(p.image + d * pixels + pixel);
  FASTFCS_UNROLL
  for (int c = 0; c < C; ++c) {
    V sum[4];
    FASTFCS_UNROLL
    for (int d = 0; d < 4; ++d) {
      const T* from = tile.sums[4 * c + d] + entry;
      sum[d] = load<V>(from) + load<V>(from + 1) + load<V>(from + 2);
    }
    const V x = load<V>(p.x + c * pixels + pixel);
    const V l =
        laplacian_at(count, x, sum[0], sum[1], sum[2], sum[3], image[0], image[1], image[2]);
    T* result = p.result + c * pixels + pixel;
    if constexpr (kind == StepKind::laplacian) {
      store(result, l);
    } else {
      V before{}, next;
      if constexpr (kind == StepKind::chebyshev_first) {
        next = chebyshev_first(l, x);
      } else {
        before = load<V>(p.previous + c * pixels + pixel);
        prefetch(p.previous + c * pixels + pixel + p.size.width);
        next = chebyshev_next(l, x, before);
      }
      store(result, next);
      if (p.update.sum) {
        T* to = p.update.sum + c * pixels + pixel;
        const V terms = p.update.previous * before + p.update.current * x + p.update.next * next;
        store(to, p.update.accumulate ? load<V>(to) + terms : terms);
      }
    }
  }
}

template <int C, StepKind kind, typename T>
void compute_pixel_row(const StepArguments<T>& p, int64_t row, const TileBuffers<T, C>& tile) {
  using V = typename VectorOf<T>::type;
  constexpr int64_t n = sizeof(V) / sizeof(T);
  const T windows = T(std::min(row, p.size.height - 3) - std::max<int64_t>(row - 2, 0) + 1);
  int64_t column = tile.first;
  for (; column + n <= tile.last; column += n)
    compute_pixels<V, C, kind>(p, row, column, windows, tile);
  for (; column < tile.last; ++column) compute_pixels<T, C, kind>(p, row, column, windows, tile);
}

// Pixel rows [top, bottom) of the columns [first, last). The models of each window row are computed
// once and kept while one of the three pixel rows that need them remains. A pixel needs the windows
// whose left column is its own or one of the two before it.
template <int C, StepKind kind, typename T>
void compute_tile(const StepArguments<T>& p, int64_t top, int64_t bottom, int64_t first,
                  int64_t last, TileBuffers<T, C>& tile) {
  const int64_t width = p.size.width;
  tile.first = first;
  tile.last = last;
  tile.left = std::max<int64_t>(first - 2, 0);
  tile.right = std::min(last, width - 2);
  // Only the columns in use are cleared: a small image need not wait for a whole tile.
  const int64_t used = std::min(last - tile.left, kTileColumns) + 16;
  for (auto& models : tile.models) std::fill_n(models, 4 * C * used, T(0));
  for (auto& sums : tile.sums) std::fill_n(sums, kMargin + used, T(0));
  for (int64_t x = first; x < last; ++x)
    tile.counts[x - first] = T(std::min(x, width - 3) - std::max<int64_t>(x - 2, 0) + 1);
  for (int64_t row = std::max<int64_t>(top - 2, 0); row < bottom; ++row) {
    compute_model_row(p, row, tile);
    if (row >= top) compute_pixel_row<C, kind>(p, row, tile);
  }
}

template <int C, typename T>
void compute_rows(const StepArguments<T>& p, int64_t top, int64_t bottom) {
  const std::unique_ptr<TileBuffers<T, C>> tile(new TileBuffers<T, C>);
  const int64_t tiles = (p.size.width + kTileColumns - 1) / kTileColumns;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t first = p.size.width * i / tiles, last = p.size.width * (i + 1) / tiles;
    switch (p.kind) {
      case StepKind::laplacian:
        compute_tile<C, StepKind::laplacian>(p, top, bottom, first, last, *tile);
        break;
      case StepKind::chebyshev_first:
        compute_tile<C, StepKind::chebyshev_first>(p, top, bottom, first, last, *tile);
        break;
      case StepKind::chebyshev_next:
        compute_tile<C, StepKind::chebyshev_next>(p, top, bottom, first, last, *tile);
        break;
    }
  }
}

// Factors of one window (V = double) or of a vector of neighbouring windows, from `column` on.
template <typename V, typename T>
inline void compute_factors(Size size, const T* image, double eps, T* factors, int64_t row,
                            int64_t column) {
  V window[3][kWindow], result[kFactors];
  FASTFCS_UNROLL
  for (int c = 0; c < 3; ++c) FASTFCS_UNROLL
  for (int j = 0; j < kWindow; ++j)
    window[c][j] =
        load_as<V>(image + c * size.pixels() + (row + j / 3) * size.width + column + j % 3);
  window_factors(window, eps, result);
  FASTFCS_UNROLL
  for (int f = 0; f < kFactors; ++f)
    store_as(factors + f * size.windows() + row * (size.width - 2) + column, result[f]);
}

}  // namespace

template <typename T>
void step_rows(const StepArguments<T>& step, int64_t first, int64_t last) {
  switch (step.channels) {
    case 1: return compute_rows<1>(step, first, last);
    case 2: return compute_rows<2>(step, first, last);
    case 3: return compute_rows<3>(step, first, last);
  }
}

template <typename T>
void factor_rows(Size size, const T* image, double eps, T* factors, int64_t first, int64_t last) {
  constexpr int64_t n = sizeof(DoubleVector) / sizeof(double);
  const int64_t windows = size.width - 2;
  for (int64_t row = first; row < last; ++row)
    if (windows < n)
      for (int64_t column = 0; column < windows; ++column)
        compute_factors<double>(size, image, eps, factors, row, column);
    else
      for (int64_t column = 0; column < windows; column += n)
        compute_factors<DoubleVector>(size, image, eps, factors, row,
                                      std::min(column, windows - n));
}

template void step_rows(const StepArguments<float>&, int64_t, int64_t);
template void step_rows(const StepArguments<double>&, int64_t, int64_t);
template void factor_rows(Size, const float*, double, float*, int64_t, int64_t);
template void factor_rows(Size, const double*, double, double*, int64_t, int64_t);

}  // namespace FASTFCS_ISA
}  // namespace fastfcs
