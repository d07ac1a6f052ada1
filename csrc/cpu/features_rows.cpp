// A row is processed in pieces that the L1 cache holds in the type of the arithmetic, so that half
// types are rounded once.
#include "features_rows.h"

#include <memory>
#include <type_traits>

#include "aligned.h"
#include "convert.h"

namespace fastfcs {
namespace FASTFCS_ISA {
namespace {

// to[i] = s(by[i]) from[i] in the type of the arithmetic.
template <typename A>
inline void apply_gate(const A* from, const A* by, A slope, A* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = by[i] > 0 ? from[i] : slope * from[i];
}

// The same in bfloat16: one loop, since values that pass unchanged need no conversion.
inline void apply_gate(const BFloat16* from, const BFloat16* by, float slope, BFloat16* to,
                       int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t bits = from[i].x, gate = by[i].x;
    const float scaled = slope * float_of(bits);
    to[i].x = gate - 1u < 0x7f80u ? bits : rounded(scaled);  // positive and not a NaN
  }
}

// Buffers for pieces of the rows of one call.
template <typename T>
class Pieces {
  using A = accumulate_t<T>;

 public:
  explicit Pieces(const GateArguments<T>& x)
      : x_(x),
        channels_(x.by.channels),
        pixels_(channels_ < 512 ? 512 / channels_ * 2 : 2),
        memory_(new A[3 * pixels_ * channels_]) {}

  int64_t pixels() const { return pixels_; }  // per piece, an even number
  A* result() const { return memory_.get(); }

  // Adds s(by) from to the result, or replaces it, for `count` elements.
  void add_gated(const T* from, const T* by, int64_t count, bool replace) const {
    A *const to = result(), *const values = to + pixels_ * channels_,
             *const gates = values + pixels_ * channels_;
    const A slope = x_.slope;
    convert(from, values, count);
    if (from != by) convert(by, gates, count);
    const A* const signs = from != by ? gates : values;
    if (replace) return apply_gate(values, signs, slope, to, count);
    for (int64_t i = 0; i < count; ++i) to[i] += signs[i] > 0 ? values[i] : slope * values[i];
  }

  // to = s(by) from
  void gate(const T* from, const T* by, T* to, int64_t count) const {
    if constexpr (std::is_same<T, Half>::value) {
      add_gated(from, by, count, true);
      convert(result(), to, count);
    } else {
      apply_gate(from, by, x_.slope, to, count);
    }
  }

  // to = s(by) result
  void write_gated(const T* by, T* to, int64_t count) const {
    A *const values = result(), *const gates = values + pixels_ * channels_;
    convert(by, gates, count);
    apply_gate(values, gates, x_.slope, values, count);
    convert(values, to, count);
  }

  // The adjoint of replicate padding: result = the gradient of the pixels [first, first + count) of
  // row y, in which the copies' gradients are added. The gradient is `from`, of a padded image of
  // height x width pixels.
  void fold(int64_t b, int64_t y, int64_t height, int64_t width, int64_t first,
            int64_t count) const {
    const int64_t c = channels_;
    A *const to = result(), *const values = to + pixels_ * channels_;
    const auto add = [&](const T* from, A* at, int64_t elements) {
      convert(from, values, elements);
      for (int64_t i = 0; i < elements; ++i) at[i] += values[i];
    };
    const auto add_row = [&](int64_t row) {
      const T* const from = x_.from.row(b, row);
      add(from + (first + 1) * c, to, count * c);
      if (first == 0) add(from, to, c);
      if (first + count == width) add(from + (width + 1) * c, to + (count - 1) * c, c);
    };
    std::memset(to, 0, count * c * sizeof(A));
    add_row(y + 1);
    if (y == 0) add_row(0);
    if (y == height - 1) add_row(height + 1);
  }

 private:
  const GateArguments<T>& x_;
  int64_t channels_, pixels_;
  std::unique_ptr<A[]> memory_;
};

}  // namespace

template <typename T>
void gate_rows(const GateArguments<T>& x, int64_t b, int64_t first, int64_t last) {
  const Pieces<T> pieces(x);
  const int64_t c = x.by.channels, width = x.by.width;
  for (int64_t y = first; y < last; ++y) {
    for (int64_t p = 0; p < width; p += pieces.pixels()) {
      const int64_t count = smaller(width - p, pieces.pixels()) * c;
      pieces.gate(x.from.row(b, y) + p * c, x.by.row(b, y) + p * c,
                  x.to.row(b, y + 1) + (p + 1) * c, count);
    }
    pad_row(x.to, b, y);
  }
}

template <typename T>
void halve_rows(const GateArguments<T>& x, int64_t b, int64_t first, int64_t last) {
  using A = accumulate_t<T>;
  const Pieces<T> pieces(x);
  const int64_t c = x.by.channels, width = x.by.width;
  for (int64_t y = first; y < last; ++y) {
    const int64_t rows = smaller(2, x.by.height - 2 * y);
    for (int64_t p = 0; p < width; p += pieces.pixels()) {
      const int64_t count = smaller(width - p, pieces.pixels());
      for (int64_t row = 0; row < rows; ++row)
        pieces.add_gated(x.from.row(b, 2 * y + row) + p * c, x.by.row(b, 2 * y + row) + p * c,
                         count * c, row == 0);
      // In place: cell q lies before or at its two pixels.
      // Numbers of pixels are powers of two, so that their reciprocals are exact.
      A* const sums = pieces.result();
      for (int64_t q = 0; q < (count + 1) / 2; ++q) {
        A *const cell = sums + q * c, *const left = sums + 2 * q * c;
        const A share = A(1) / rows;
        if (2 * q + 1 < count)
          for (int64_t i = 0; i < c; ++i) cell[i] = (left[i] + left[c + i]) * (share / 2);
        else
          for (int64_t i = 0; i < c; ++i) cell[i] = left[i] * share;
      }
      convert(sums, x.to.row(b, y + 1) + (p / 2 + 1) * c, (count + 1) / 2 * c);
    }
    pad_row(x.to, b, y);
  }
}

template <typename T>
void gate_backward_rows(const GateArguments<T>& x, int64_t b, int64_t first, int64_t last) {
  const Pieces<T> pieces(x);
  const int64_t c = x.by.channels, width = x.by.width;
  for (int64_t y = first; y < last; ++y)
    for (int64_t p = 0; p < width; p += pieces.pixels()) {
      const int64_t count = smaller(width - p, pieces.pixels());
      pieces.fold(b, y, x.by.height, width, p, count);
      pieces.write_gated(x.by.row(b, y) + p * c, x.to.row(b, y) + p * c, count * c);
    }
}

template <typename T>
void halve_backward_rows(const GateArguments<T>& x, int64_t b, int64_t first, int64_t last) {
  using A = accumulate_t<T>;
  const Pieces<T> cells(x), pieces(x);
  const int64_t c = x.by.channels, height = x.by.height, width = x.by.width;
  const int64_t cell_height = (height + 1) / 2, cell_width = (width + 1) / 2;
  for (int64_t y = first; y < last; ++y) {
    const int64_t rows = smaller(2, height - 2 * y);
    for (int64_t q = 0; q < cell_width; q += cells.pixels()) {
      const int64_t count = smaller(cell_width - q, cells.pixels());
      cells.fold(b, y, cell_height, cell_width, q, count);
      const int64_t end = smaller(width, 2 * (q + count));
      for (int64_t p = 2 * q; p < end; p += pieces.pixels()) {
        const int64_t piece = smaller(end - p, pieces.pixels());
        for (int64_t row = 0; row < rows; ++row) {
          A* const to = pieces.result();
          for (int64_t i = 0; i < piece; ++i) {
            const A* const cell = cells.result() + ((p + i) / 2 - q) * c;
            const A share = A(1) / (rows * ((p + i) / 2 * 2 + 1 < width ? 2 : 1));
            for (int64_t k = 0; k < c; ++k) to[i * c + k] = cell[k] * share;
          }
          pieces.write_gated(x.by.row(b, 2 * y + row) + p * c, x.to.row(b, 2 * y + row) + p * c,
                             piece * c);
        }
      }
    }
  }
}

#define FASTFCS_INSTANTIATE(T)                                                          \
  template void gate_rows(const GateArguments<T>&, int64_t, int64_t, int64_t);          \
  template void halve_rows(const GateArguments<T>&, int64_t, int64_t, int64_t);         \
  template void gate_backward_rows(const GateArguments<T>&, int64_t, int64_t, int64_t); \
  template void halve_backward_rows(const GateArguments<T>&, int64_t, int64_t, int64_t);
FASTFCS_INSTANTIATE(float)
FASTFCS_INSTANTIATE(double)
FASTFCS_INSTANTIATE(Half)
FASTFCS_INSTANTIATE(BFloat16)
#undef FASTFCS_INSTANTIATE

}  // namespace FASTFCS_ISA
}  // namespace fastfcs
