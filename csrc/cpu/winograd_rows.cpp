#include "winograd_rows.h"

#include "aligned.h"
#include "outputs.h"

namespace fastfcs {
namespace FASTFCS_ISA {
namespace {

using V = FloatVector;

constexpr int64_t kWidth = 2 * kLanes;      // outputs that are computed together
constexpr int64_t kInputBytes = 384 << 10;  // of transformed inputs, for the second-level cache

// Cells whose sums are computed together: two vectors of each fit into the registers, 32 of AVX-512
// and 16 elsewhere.
constexpr int kCells = FASTFCS_VECTOR == 64 ? 12 : 6;

// v[0 .. 3] = B^T v[0 .. 3], where `step` lies between the elements.
template <typename T>
inline void transform_input(T* v, int step) {
  const T a = v[0], b = v[step], c = v[2 * step], d = v[3 * step];
  v[0] = a - c;
  v[step] = b + c;
  v[2 * step] = c - b;
  v[3 * step] = b - d;
}

// A cell's first pixel, and how many rows and columns of its pixels exist. Pixels beyond an odd
// border count as 0 and are not stored.
struct Cell {
  int64_t y, x, rows, columns;

  bool is_whole() const { return rows == 2 && columns == 2; }
};

class Cells {
 public:
  Cells(const Convolution<float>& x, const float* weights, int64_t b)
      : x_(x),
        weights_(weights),
        b_(b),
        inputs_(x.from.channels),
        per_row_(cells_per_row(x.to.width)),
        most_(cells_at_once()),
        cells_(most_),
        inputs_memory_(kPositions * most_ * inputs_),
        sums_memory_(kPositions * most_ * kWidth) {}

  void convolve(int64_t first, int64_t last) {
    const int64_t outputs = x_.to.channels;
    for (; first < last; first += most_) {
      count_ = smaller(most_, last - first);
      for (int64_t i = 0; i < count_; ++i) {
        const Cell cell = cells_.get()[i] = cell_at(first + i);
        cell.is_whole() ? read<true>(i, cell) : read<false>(i, cell);
      }
      for (int64_t output = 0; output < outputs; output += kWidth) {
        const float* const weights = weights_ + output * kPositions * inputs_;
        outputs - output > kLanes ? multiply<2>(weights) : multiply<1>(weights);
        for (int64_t i = 0; i < count_; ++i) {
          const Cell cell = cells_.get()[i];
          cell.is_whole() ? write<true>(i, cell, output) : write<false>(i, cell, output);
        }
      }
    }
  }

 private:
  int64_t cells_at_once() const {
    const int64_t most = kInputBytes / (kPositions * inputs_ * int64_t(sizeof(float)));
    return most < kCells ? kCells : smaller(most, 128) / kCells * kCells;
  }

  Cell cell_at(int64_t index) const {
    const int64_t y = index / per_row_ * 2, x = index % per_row_ * 2;
    return {y, x, smaller(2, x_.to.height - y), smaller(2, x_.to.width - x)};
  }

  float* inputs(int64_t position, int64_t i) {
    return inputs_memory_.get() + (position * most_ + i) * inputs_;
  }
  float* sums(int64_t position, int64_t i) {
    return sums_memory_.get() + (position * most_ + i) * kWidth;
  }

  // Transforms the inputs of the i-th cell.
  template <bool whole>
  void read(int64_t i, const Cell& cell) {
    int64_t c = 0;
    for (; c + kLanes <= inputs_; c += kLanes) read_channels<V, whole>(i, cell, c);
    for (; c < inputs_; ++c) read_channels<float, whole>(i, cell, c);
  }

  template <typename T, bool whole>
  void read_channels(int64_t i, const Cell& cell, int64_t c) {
    const float* const from = x_.from.row(b_, cell.y) + cell.x * inputs_ + c;
    T v[kPositions];
    for (int row = 0; row < 4; ++row)
      for (int column = 0; column < 4; ++column)
        v[4 * row + column] = whole || (row < cell.rows + 2 && column < cell.columns + 2)
                                  ? load<T>(from + row * x_.from.row_pitch + column * inputs_)
                                  : T{};
    for (int row = 0; row < 4; ++row) transform_input(v + 4 * row, 1);
    for (int column = 0; column < 4; ++column) transform_input(v + column, 4);
    for (int position = 0; position < kPositions; ++position)
      store(inputs(position, i) + c, v[position]);
  }

  // The sums of one or two vectors of outputs: a matrix product per position.
  template <int vectors>
  void multiply(const float* weights) {
    constexpr int cells = 2 / vectors * kCells;
    for (int64_t position = 0; position < kPositions; ++position, weights += inputs_ * kWidth) {
      int64_t i = 0;
      for (; i + cells <= count_; i += cells) multiply_cells<cells, vectors>(position, i, weights);
      for (; i < count_; ++i) multiply_cells<1, vectors>(position, i, weights);
    }
  }

  template <int cells, int vectors>
  void multiply_cells(int64_t position, int64_t first, const float* weights) {
    V total[cells][vectors] = {};
    const float* const from = inputs(position, first);
    for (int64_t c = 0; c < inputs_; ++c) {
      V w[vectors];
#pragma GCC unroll 2
      for (int k = 0; k < vectors; ++k) w[k] = load<V>(weights + c * kWidth + k * kLanes);
#pragma GCC unroll 24
      for (int i = 0; i < cells; ++i)
#pragma GCC unroll 2
        for (int k = 0; k < vectors; ++k) total[i][k] += from[i * inputs_ + c] * w[k];
    }
#pragma GCC unroll 24
    for (int i = 0; i < cells; ++i)
#pragma GCC unroll 2
      for (int k = 0; k < vectors; ++k) store(sums(position, first + i) + k * kLanes, total[i][k]);
  }

  // Transforms the sums of the i-th cell to its outputs, from `output` on.
  template <bool whole>
  void write(int64_t i, const Cell& cell, int64_t output) {
    const int64_t outputs = smaller(kWidth, x_.to.channels - output);
    for (int64_t o = 0; o < outputs; o += kLanes) write_channels<whole>(i, cell, output, o);
  }

  template <bool whole>
  void write_channels(int64_t i, const Cell& cell, int64_t output, int64_t o) {
    V half[2][4];  // A^T of the sums
    for (int column = 0; column < 4; ++column) {
      V v[4];
      for (int row = 0; row < 4; ++row) v[row] = load<V>(sums(4 * row + column, i) + o);
      half[0][column] = v[0] + v[1] + v[2];
      half[1][column] = v[1] - v[2] - v[3];
    }
    output += o;
    const int64_t channels = x_.to.channels, count = smaller(kLanes, channels - output);
    float* const to = x_.to.row(b_, cell.y) + cell.x * channels + output;
    const float* const gates = x_.gates(b_, cell.y, cell.x, output);
    const V bias = load<V>(x_.bias + output);
    for (int row = 0; row < 2; ++row) {
      const V* const v = half[row];
      const V result[2] = {v[0] + v[1] + v[2] + bias, v[1] - v[2] - v[3] + bias};
      for (int column = 0; column < 2; ++column)
        if (whole || (row < cell.rows && column < cell.columns)) {
          const float* const by =
              gates ? gates + row * x_.by.row_pitch + column * channels : nullptr;
          store_gated(to + row * x_.to.row_pitch + column * channels, result[column], by, x_.slope,
                      count);
        }
    }
  }

  const Convolution<float>& x_;
  const float* const weights_;
  const int64_t b_, inputs_, per_row_, most_;
  int64_t count_ = 0;
  AlignedBuffer<Cell> cells_;
  AlignedBuffer<float> inputs_memory_;  // [positions][cells][inputs]
  AlignedBuffer<float> sums_memory_;    // [positions][cells][kWidth]
};

// to[0 .. 3] = G from[0 .. 2]
inline void transform_weight(const V* from, V* to, int step) {
  const V ends = from[0] + from[2 * step], middle = from[step];
  to[0] = from[0];
  to[step] = (ends + middle) / 2;
  to[2 * step] = (ends - middle) / 2;
  to[3 * step] = from[2 * step];
}

}  // namespace

// A panel holds `kWidth` outputs: [positions][inputs][kWidth].
void transform_weights(const ConvolutionWeight<float>& weight, int64_t first, int64_t last,
                       float* to) {
  for (int64_t o = first * kPanel; o < last * kPanel; o += kLanes)
    for (int64_t input = 0; input < weight.inputs; ++input) {
      V taps[12], between[16], transformed[16];  // 3 and 4 rows of 4
      for (int y = 0; y < 3; ++y)
        for (int x = 0; x < 3; ++x) taps[4 * y + x] = weights_at(weight, o, input, y, x);
      for (int x = 0; x < 3; ++x) transform_weight(taps + x, between + x, 4);
      for (int y = 0; y < 4; ++y) transform_weight(between + 4 * y, transformed + 4 * y, 1);
      float* const at =
          to + (o / kWidth * kPositions * weight.inputs + input) * kWidth + o % kWidth;
      for (int position = 0; position < kPositions; ++position)
        store(at + position * weight.inputs * kWidth, transformed[position]);
    }
}

void convolve_cells(const Convolution<float>& x, const float* weights, int64_t b, int64_t first,
                    int64_t last) {
  Cells(x, weights, b).convolve(first, last);
}

}  // namespace FASTFCS_ISA
}  // namespace fastfcs
