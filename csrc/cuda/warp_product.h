// Matrix products of one warp: operands in shared memory, sums in registers.
//
//   WarpProduct   sum[i][j] += sum_p a[i][p] b[j][p]   G and S: over pixels
//   WarpApply     sum[c][p] += sum_k w[k][c] h[k][p]   times C x C weights: over channels
//
// float32 and float64 use fused multiply-adds, half types and TF32 tensor cores (tensor_core.h).
// Operands of features lie as in device memory: channels_first is a[i * kStride + p], channels_last
// a[p * kStride + i].
#pragma once

#include <type_traits>

#include "../gram.h"
#include "kernels.h"
#include "launch.h"
#include "tensor_core.h"

namespace fastfcs::cuda {

constexpr int kLanes = 32;

template <typename T, int n>
struct alignas(n * sizeof(T)) Vector {
  T element[n];
};

// A thread holds 8 x 8 sums (8 x 4 in float64), so that 16 loads of 16 bytes feed 256
// multiply-adds. A small tile needs fewer than 32 lanes. The warp then splits into kPixelGroups
// groups of lanes, which take the pixels in turn, and the caller adds the sums of the groups.
template <typename T, int kSide, int kPixels, int kStride, Layout kLayout>
class FusedProduct {
 public:
  static constexpr int kRows = 8, kColumns = sizeof(T) == 8 ? 4 : 8;
  static constexpr int kPixelGroups = kLanes * kRows * kColumns / (kSide * kSide);

  // Neighbouring lanes share a row or a column, so that two quarters of a warp can read shared
  // memory at once.
  __device__ explicit FusedProduct(int lane)
      : column_(lane / 4 % (kAcross / 2) * 2 + lane % 2),
        row_(lane / 4 / (kAcross / 2) % (kDown / 2) * 2 + lane / 2 % 2),
        pixel_group_(lane / 4 / (kAcross / 2) / (kDown / 2)) {}

  __device__ void add(const T* a, const T* b) {
    if constexpr (kLayout == Layout::channels_first)
      add_channels_first(a, b);
    else
      add_channels_last(a, b);
  }

  // Writes the sums of every group, [kPixelGroups, kSide, kSide].
  __device__ void store(T* to) const {
    to += pixel_group_ * kSide * kSide;
    FASTFCS_UNROLL
    for (int i = 0; i < kRows; ++i) {
      FASTFCS_UNROLL
      for (int j = 0; j < kColumns; ++j)
        to[channel(i, row_, kDown) * kSide + channel(j, column_, kAcross)] = sum_[i][j];
    }
  }

 private:
  static constexpr int kVector = 16 / sizeof(T);
  static constexpr int kDown = kSide / kRows, kAcross = kSide / kColumns;  // lanes
  static_assert(kPixels % (kPixelGroups * kVector) == 0);
  using Load = Vector<T, kVector>;

  // The channel of the i-th row or column of one of several lanes. Those of a lane are as far apart
  // as there are lanes or, where 16 bytes hold several channels, adjacent within them.
  __device__ static constexpr int channel(int i, int lane, int lanes) {
    constexpr int kAdjacent = kLayout == Layout::channels_first ? 1 : kVector;
    return (i / kAdjacent * lanes + lane) * kAdjacent + i % kAdjacent;
  }

  __device__ void add_channels_first(const T* a, const T* b) {
    a += row_ * kStride + pixel_group_ * kVector;
    b += column_ * kStride + pixel_group_ * kVector;
#pragma unroll 1  // unrolling would exceed the registers
    for (int p = 0; p < kPixels; p += kPixelGroups * kVector) {
      Load rows[kRows];
      FASTFCS_UNROLL
      for (int i = 0; i < kRows; ++i)
        rows[i] = *reinterpret_cast<const Load*>(a + i * kDown * kStride + p);
      FASTFCS_UNROLL
      for (int j = 0; j < kColumns; ++j) {
        const Load column = *reinterpret_cast<const Load*>(b + j * kAcross * kStride + p);
        FASTFCS_UNROLL
        for (int v = 0; v < kVector; ++v) {
          FASTFCS_UNROLL
          for (int i = 0; i < kRows; ++i) sum_[i][j] += rows[i].element[v] * column.element[v];
        }
      }
    }
  }

  __device__ void add_channels_last(const T* a, const T* b) {
    a += pixel_group_ * kStride + row_ * kVector;
    b += pixel_group_ * kStride + column_ * kVector;
#pragma unroll 2
    for (int p = 0; p < kPixels; p += kPixelGroups) {
      Load rows[kRows / kVector], columns[kColumns / kVector];
      FASTFCS_UNROLL
      for (int i = 0; i < kRows / kVector; ++i)
        rows[i] = *reinterpret_cast<const Load*>(a + p * kStride + i * kDown * kVector);
      FASTFCS_UNROLL
      for (int j = 0; j < kColumns / kVector; ++j)
        columns[j] = *reinterpret_cast<const Load*>(b + p * kStride + j * kAcross * kVector);
      FASTFCS_UNROLL
      for (int i = 0; i < kRows; ++i) {
        FASTFCS_UNROLL
        for (int j = 0; j < kColumns; ++j)
          sum_[i][j] +=
              rows[i / kVector].element[i % kVector] * columns[j / kVector].element[j % kVector];
      }
    }
  }

  int column_, row_, pixel_group_;
  T sum_[kRows][kColumns] = {};
};

template <typename T>
constexpr bool kOnTensorCores =
    std::is_same_v<T, Half> || std::is_same_v<T, BFloat16> || std::is_same_v<T, Tf32>;

// The number of tensor core products per product of float32 numbers: 1 of the rounded values, or 3
// with the rounding residuals, which reach float32's accuracy (3xTF32).
#ifndef FASTFCS_GRAM_TF32_TERMS
#define FASTFCS_GRAM_TF32_TERMS 1
#endif
template <typename T>
constexpr bool kSplit = std::is_same_v<T, Tf32> && FASTFCS_GRAM_TF32_TERMS == 3;

// A tensor core operand: half numbers unchanged, or float32 numbers rounded to TF32 (high) and, if
// kSplit, the rounding residuals (low).
template <typename T, int n>
struct Operand {
  Word high[n], low[n];

  __device__ void round() {
    if constexpr (std::is_same_v<T, Tf32>) {
      FASTFCS_UNROLL
      for (int i = 0; i < n; ++i) {
        const float value = as_float(high[i]);
        high[i] = rounded_to_tf32(value);
        if constexpr (kSplit<T>) low[i] = rounded_to_tf32(value - as_float(high[i]));
      }
    }
  }
};

// Products of half numbers are exact in float32, but tensor cores truncate their sums. The sum of
// every stage therefore starts from zero and is added to the total in true float32: one addition
// per kPixels / (2 kVector) tensor core instructions.
template <typename T, int kSide, int kPixels, int kStride, Layout kLayout>
class TensorCoreProduct {
 public:
  static constexpr int kPixelGroups = 1;

  __device__ explicit TensorCoreProduct(int lane) : lane_(lane) {}

  __device__ void add(const T* a, const T* b) {
    static_assert(kPixels % (2 * kVector) == 0);
    float stage[kRows][kColumns][4] = {};
    FASTFCS_UNROLL
    for (int p = 0; p < kPixels; p += 2 * kVector) {
      Operand<T, 4> rows[kRows], columns[kColumns / 2];
      load_rows(a, p, rows);
      load_columns(b, p, columns);
      FASTFCS_UNROLL
      for (int i = 0; i < kRows; ++i) rows[i].round();
      FASTFCS_UNROLL
      for (int j = 0; j < kColumns / 2; ++j) columns[j].round();
      FASTFCS_UNROLL
      for (int i = 0; i < kRows; ++i) {
        FASTFCS_UNROLL
        for (int j = 0; j < kColumns; ++j) {
          const Word* const high = columns[j / 2].high + j % 2 * 2;
          if constexpr (kSplit<T>) {
            multiply(T{}, stage[i][j], rows[i].low, high);
            multiply(T{}, stage[i][j], rows[i].high, columns[j / 2].low + j % 2 * 2);
          }
          multiply(T{}, stage[i][j], rows[i].high, high);
        }
      }
    }
    FASTFCS_UNROLL
    for (int i = 0; i < kRows; ++i) {
      FASTFCS_UNROLL
      for (int j = 0; j < kColumns; ++j) {
        FASTFCS_UNROLL
        for (int e = 0; e < 4; ++e) sum_[i][j][e] += stage[i][j][e];
      }
    }
  }

  // Writes the sums, [kSide, kSide].
  __device__ void store(float* to) const {
    FASTFCS_UNROLL
    for (int i = 0; i < kRows; ++i) {
      FASTFCS_UNROLL
      for (int j = 0; j < kColumns; ++j) {
        FASTFCS_UNROLL
        for (int e = 0; e < 4; e += 2) {
          float* const row = to + channel(2 * i + e / 2, lane_ / 4) * kSide;
          const int column = lane_ % 4 * 2;
          if constexpr (kInterleaved) {
            row[channel(j, column)] = sum_[i][j][e];
            row[channel(j, column + 1)] = sum_[i][j][e + 1];
          } else {
            *reinterpret_cast<Vector<float, 2>*>(row + channel(j, column)) = {sum_[i][j][e],
                                                                              sum_[i][j][e + 1]};
          }
        }
      }
    }
  }

 private:
  static constexpr int kVector = 16 / sizeof(T);  // pixels per matrix; a fragment has two
  static constexpr int kRows = kSide / 16, kColumns = kSide / 8;

  // ldmatrix transposes half numbers but not TF32. There, a lane loads kColumns neighbouring
  // channels of a pixel and uses each as a row, or column, of another product.
  static constexpr bool kInterleaved = kLayout == Layout::channels_last && sizeof(T) == 4;

  // The channel of row or column i of the matrix that is the m-th of eight rows or columns.
  __device__ static constexpr int channel(int m, int i) {
    return kInterleaved ? i * kColumns + m : m * 8 + i;
  }

  // Matrices of a fragment of rows: channels first, then pixels.
  __device__ void load_rows(const T* a, int p, Operand<T, 4> (&rows)[kRows]) const {
    if constexpr (kInterleaved) {
      Word words[2][kColumns];
      load_words(a, p, words);
      FASTFCS_UNROLL
      for (int m = 0; m < 4 * kRows; ++m)
        rows[m / 4].high[m % 4] = words[m / 2 % 2][m / 4 * 2 + m % 2];
    } else {
      FASTFCS_UNROLL
      for (int i = 0; i < kRows; ++i) {
        if constexpr (kLayout == Layout::channels_first)
          load_matrices(rows[i].high,
                        a + (i * 16 + lane_ % 16) * kStride + p + lane_ / 16 * kVector);
        else
          load_matrices_transposed(rows[i].high, a + (p + lane_ / 16 * 8 + lane_ % 8) * kStride +
                                                     i * 16 + lane_ / 8 % 2 * 8);
      }
    }
  }

  // Matrices of two fragments of columns: pixels first, then channels.
  __device__ void load_columns(const T* b, int p, Operand<T, 4> (&columns)[kColumns / 2]) const {
    if constexpr (kInterleaved) {
      Word words[2][kColumns];
      load_words(b, p, words);
      FASTFCS_UNROLL
      for (int m = 0; m < 2 * kColumns; ++m) columns[m / 4].high[m % 4] = words[m % 2][m / 2];
    } else {
      FASTFCS_UNROLL
      for (int j = 0; j < kColumns / 2; ++j) {
        if constexpr (kLayout == Layout::channels_first)
          load_matrices(columns[j].high, b + (j * 16 + lane_ / 16 * 8 + lane_ % 8) * kStride + p +
                                             lane_ / 8 % 2 * kVector);
        else
          load_matrices_transposed(columns[j].high,
                                   b + (p + lane_ % 16) * kStride + j * 16 + lane_ / 16 * 8);
      }
    }
  }

  // The lane's channels of pixels p and p + 4 of a fragment.
  __device__ void load_words(const T* from, int p, Word (&words)[2][kColumns]) const {
    FASTFCS_UNROLL
    for (int m = 0; m < 2; ++m) {
      const auto loaded = *reinterpret_cast<const Vector<Word, kColumns>*>(
          from + (p + lane_ % 4 + m * 4) * kStride + lane_ / 4 * kColumns);
      FASTFCS_UNROLL
      for (int j = 0; j < kColumns; ++j) words[m][j] = loaded.element[j];
    }
  }

  int lane_;
  float sum_[kRows][kColumns][4] = {};
};

// Padding, in elements, of the rows of a stage in shared memory. It puts simultaneous reads of a
// warp into different banks: eight rows of 16 bytes for tensor cores, four pixels of interleaved
// TF32, the rows of neighbouring lanes for fused multiply-adds.
template <typename T, Layout kLayout>
constexpr int kProductPad =
    kOnTensorCores<T> && kLayout == Layout::channels_first ? 16 / int(sizeof(T)) : 8;

template <typename T, int kSide, int kPixels, int kStride, Layout kLayout>
using WarpProduct =
    std::conditional_t<kOnTensorCores<T>, TensorCoreProduct<T, kSide, kPixels, kStride, kLayout>,
                       FusedProduct<T, kSide, kPixels, kStride, kLayout>>;

// sum[c][p] += sum_k w[k][c] h[k][p]       c < kOutputs, p < kPixels, k < depth
//
// w is the sum of kParts numbers. Each part is stored in fragments, the order in which lanes
// multiply it: the weights [k][c] of kDepth k's and 16 outputs, 16 consecutive bytes per lane.
// Fragments of one depth are consecutive. They are read whole: h must have numbers up to the next
// multiple of kDepth. Half types have two parts. TF32 has one, since rounding was requested, or two
// if h is split as well.
template <typename T>
struct WeightFragment {
  static constexpr int kParts = sizeof(T) == 2 || kSplit<T> ? 2 : 1;
  static constexpr int kDepth = 32 / sizeof(T), kLaneWeights = 16 / sizeof(T);
  static constexpr int kSize = kLanes * kLaneWeights;
};

template <typename T>
__device__ __forceinline__ void load_words(const T* from, Word (&to)[4]) {
  const auto words = *reinterpret_cast<const Vector<Word, 4>*>(from);
  FASTFCS_UNROLL
  for (int m = 0; m < 4; ++m) to[m] = words.element[m];
}

// A lane's parts of the kCount first of kAcross fragments of depth k.
template <int kAcross, typename T, int kCount>
__device__ __forceinline__ void load_weights(const T* high, const T* low, int k, int lane,
                                             Operand<T, 4> (&to)[kCount]) {
  using Fragment = WeightFragment<T>;
  FASTFCS_UNROLL
  for (int i = 0; i < kCount; ++i) {
    const int from =
        (k / Fragment::kDepth * kAcross + i) * Fragment::kSize + lane * Fragment::kLaneWeights;
    load_words(high + from, to[i].high);
    if constexpr (Fragment::kParts == 2) load_words(low + from, to[i].low);
  }
}

// h[k * kStride + p] on tensor cores, the outputs being rows and the pixels columns.
template <typename T, int kOutputs, int kPixels, int kStride>
class RowApply {
  using Fragment = WeightFragment<T>;
  static constexpr bool kHalf = sizeof(T) == 2;
  static constexpr int kInWord = 4 / sizeof(T);
  static constexpr int kGroup = kHalf ? 16 : 32;  // pixels loaded at a time

 public:
  // Results are stored in pieces of 16 outputs by kPiecePixels, with rows kPieceStride apart.
  static constexpr int kPiecePixels = 128 / sizeof(T), kPieceStride = 144 / sizeof(T);
  static constexpr int kPieces = kOutputs / 16 * (kPixels / kPiecePixels);
  static constexpr size_t kResults = 16 * kPieceStride * sizeof(T);  // bytes of a piece

  __device__ explicit RowApply(int lane) : lane_(lane) {}

  // Element e of a lane's part of a fragment is weight [depth_of(lane, e)][output_of(lane, e)].
  __device__ static int depth_of(int lane, int e) {
    return lane % 4 * kInWord + e % kInWord + e / kInWord / 2 * (Fragment::kDepth / 2);
  }
  __device__ static int output_of(int lane, int e) { return lane / 4 + e / kInWord % 2 * 8; }

  // high and low point to the first fragment of the first output, h to the first pixel. There are
  // kAcross fragments of one depth, of which this warp reads kOutputs / 16.
  template <int kAcross>
  __device__ void add(const T* high, const T* low, const T* h, int depth) {
#pragma unroll 1
    for (int k = 0; k < depth; k += Fragment::kDepth) {
      Operand<T, 4> weights[kOutputs / 16];
      load_weights<kAcross>(high, low, k, lane_, weights);
      FASTFCS_UNROLL
      for (int group = 0; group < kPixels / kGroup; ++group) {
        Operand<T, kGroup / 4> pixels;  // two words per eight pixels
        load(h + k * kStride + group * kGroup, pixels);
        pixels.round();
        FASTFCS_UNROLL
        for (int i = 0; i < kOutputs / 16; ++i) {
          FASTFCS_UNROLL
          for (int j = 0; j < kGroup / 8; ++j) {
            float (&sum)[4] = sum_[i][group * (kGroup / 8) + j];
            if constexpr (Fragment::kParts == 2)
              multiply(T{}, sum, weights[i].low, pixels.high + 2 * j);
            if constexpr (kSplit<T>) multiply(T{}, sum, weights[i].high, pixels.low + 2 * j);
            multiply(T{}, sum, weights[i].high, pixels.high + 2 * j);
          }
        }
      }
    }
  }

  // to[c * kPieceStride + p] = scales[c] * sum, for the 16 outputs from output(piece) on, scales
  // being those of these outputs, and the kPiecePixels pixels from pixel(piece) on.
  __device__ void store(int piece, const float* scales, T* to) const {
    constexpr int kBlocks = kPiecePixels / 8;
    const auto& sums = sum_[piece / (kPixels / kPiecePixels)];
    const int first = piece % (kPixels / kPiecePixels) * kBlocks;
    FASTFCS_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int c = lane_ / 4 + 8 * half;
      const float scale = scales[c];
      const auto at = [&](int j, int e) {
        return static_cast<T>(sums[first + j][2 * half + e] * scale);
      };
      T* const row = to + c * kPieceStride;
      if constexpr (kHalf) {
        FASTFCS_UNROLL
        for (int j = 0; j < kBlocks; ++j)
          *reinterpret_cast<Vector<T, 2>*>(row + j * 8 + lane_ % 4 * 2) = {at(j, 0), at(j, 1)};
      } else {
        FASTFCS_UNROLL
        for (int j = 0; j < kBlocks; j += 4) {
          FASTFCS_UNROLL
          for (int e = 0; e < 2; ++e)
            *reinterpret_cast<Vector<T, 4>*>(row + j * 8 + lane_ % 4 * 8 + e * 4) = {
                at(j, e), at(j + 1, e), at(j + 2, e), at(j + 3, e)};
        }
      }
    }
  }
  __device__ static int output(int piece) { return piece / (kPixels / kPiecePixels) * 16; }
  __device__ static int pixel(int piece) { return piece % (kPixels / kPiecePixels) * kPiecePixels; }

 private:
  static_assert(kPixels % kPiecePixels == 0 && kPiecePixels % kGroup == 0);

  // ldmatrix transposes half numbers but not TF32. There, a lane loads four neighbouring pixels of
  // a row and uses each as a column of another product: a product's 8 pixels are every fourth
  // of 32.
  __device__ void load(const T* h, Operand<T, kGroup / 4>& to) const {
    if constexpr (kHalf) {
      load_matrices_transposed(to.high,
                               h + (lane_ / 8 % 2 * 8 + lane_ % 8) * kStride + lane_ / 16 * 8);
    } else {
      h += lane_ % 4 * kStride + lane_ / 4 * 4;
      FASTFCS_UNROLL
      for (int m = 0; m < 2; ++m) {
        const auto words = *reinterpret_cast<const Vector<Word, 4>*>(h + m * 4 * kStride);
        FASTFCS_UNROLL
        for (int j = 0; j < 4; ++j) to.high[2 * j + m] = words.element[j];
      }
    }
  }

  int lane_;
  float sum_[kOutputs / 16][kPixels / 8][4] = {};
};

// h[p * kStride + k] on tensor cores, the pixels being rows and the outputs columns. Neither needs
// to be transposed, and TF32 needs no order of its own.
template <typename T, int kOutputs, int kPixels, int kStride>
class PixelApply {
  using Fragment = WeightFragment<T>;
  static constexpr int kInWord = 4 / sizeof(T);

 public:
  // Results are stored in pieces of kPiecePixels pixels, in rows of kResultRow numbers.
  static constexpr int kPiecePixels = 16, kPieces = kPixels / kPiecePixels;
  static constexpr int kResultRow = kOutputs + 8;
  static constexpr size_t kResults = kPiecePixels * kResultRow * sizeof(float);  // bytes of a piece

  __device__ explicit PixelApply(int lane) : lane_(lane) {}

  // As in RowApply, with the words of a lane in the order of two fragments of eight columns.
  __device__ static int depth_of(int lane, int e) {
    return lane % 4 * kInWord + e % kInWord + e / kInWord % 2 * (Fragment::kDepth / 2);
  }
  __device__ static int output_of(int lane, int e) { return lane / 4 + e / kInWord / 2 * 8; }

  template <int kAcross>
  __device__ void add(const T* high, const T* low, const T* h, int depth) {
    h += lane_ % 16 * kStride + lane_ / 16 * Fragment::kLaneWeights;
#pragma unroll 1
    for (int k = 0; k < depth; k += Fragment::kDepth) {
      Operand<T, 4> weights[kOutputs / 16];
      load_weights<kAcross>(high, low, k, lane_, weights);
      FASTFCS_UNROLL
      for (int i = 0; i < kPieces; ++i) {
        Operand<T, 4> pixels;
        load_matrices(pixels.high, h + i * 16 * kStride + k);
        pixels.round();
        FASTFCS_UNROLL
        for (int j = 0; j < kOutputs / 8; ++j) {
          const Operand<T, 4>& weight = weights[j / 2];
          if constexpr (Fragment::kParts == 2)
            multiply(T{}, sum_[i][j], pixels.high, weight.low + j % 2 * 2);
          if constexpr (kSplit<T>) multiply(T{}, sum_[i][j], pixels.low, weight.high + j % 2 * 2);
          multiply(T{}, sum_[i][j], pixels.high, weight.high + j % 2 * 2);
        }
      }
    }
  }

  // to[p * kResultRow + c] = scales[c] * sum for pixels p of piece i and all outputs c.
  __device__ void store(int i, const float* scales, float* to) const {
    FASTFCS_UNROLL
    for (int j = 0; j < kOutputs / 8; ++j) {
      const int c = j * 8 + lane_ % 4 * 2;
      FASTFCS_UNROLL
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<Vector<float, 2>*>(to + (lane_ / 4 + half * 8) * kResultRow + c) = {
            sum_[i][j][2 * half] * scales[c], sum_[i][j][2 * half + 1] * scales[c + 1]};
    }
  }

 private:
  int lane_;
  float sum_[kPieces][kOutputs / 8][4] = {};
};

// h[p * kStride + k] by fused multiply-adds. A thread holds the sums of several pixels and eight
// outputs (four in float64): for four k's (two), it loads 16 bytes of each pixel and of weights.
template <typename T, int kOutputs, int kPixels, int kStride>
class FusedApply {
  using Fragment = WeightFragment<T>;
  static constexpr int kVector = 16 / sizeof(T), kColumns = sizeof(T) == 8 ? 4 : 8;
  static constexpr int kAcross = kOutputs / kColumns, kDown = kLanes / kAcross;  // lanes
  using Load = Vector<T, kVector>;

 public:
  static constexpr int kPiecePixels = kDown, kPieces = kPixels / kPiecePixels;
  static constexpr int kResultRow = kOutputs + 8;
  static constexpr size_t kResults = kPiecePixels * kResultRow * sizeof(T);

  __device__ explicit FusedApply(int lane) : column_(lane % kAcross), row_(lane / kAcross) {}

  // A fragment is [k][16 outputs].
  __device__ static int depth_of(int lane, int e) {
    return (lane * Fragment::kLaneWeights + e) / 16;
  }
  __device__ static int output_of(int lane, int e) {
    return (lane * Fragment::kLaneWeights + e) % 16;
  }

  template <int kFragmentsAcross>
  __device__ void add(const T* weights, const T*, const T* h, int depth) {
    h += row_ * kStride;
#pragma unroll 1
    for (int k = 0; k < depth; k += kVector) {
      Load pixels[kPieces];
      FASTFCS_UNROLL
      for (int i = 0; i < kPieces; ++i)
        pixels[i] = *reinterpret_cast<const Load*>(h + i * kDown * kStride + k);
      FASTFCS_UNROLL
      for (int e = 0; e < kVector; ++e) {
        const T* const fragments = weights +
                                   k / Fragment::kDepth * kFragmentsAcross * Fragment::kSize +
                                   (k % Fragment::kDepth + e) * 16;
        FASTFCS_UNROLL
        for (int v = 0; v < kColumns / kVector; ++v) {
          const int c = output(v);
          const Load weight =
              *reinterpret_cast<const Load*>(fragments + c / 16 * Fragment::kSize + c % 16);
          FASTFCS_UNROLL
          for (int i = 0; i < kPieces; ++i) {
            FASTFCS_UNROLL
            for (int j = 0; j < kVector; ++j)
              sum_[i][v * kVector + j] += pixels[i].element[e] * weight.element[j];
          }
        }
      }
    }
  }

  __device__ void store(int i, const T*, T* to) const {
    FASTFCS_UNROLL
    for (int v = 0; v < kColumns / kVector; ++v) {
      Load values;
      FASTFCS_UNROLL
      for (int j = 0; j < kVector; ++j) values.element[j] = sum_[i][v * kVector + j];
      *reinterpret_cast<Load*>(to + row_ * kResultRow + output(v)) = values;
    }
  }

 private:
  // The first output of the lane's v-th vector.
  __device__ int output(int v) const { return (v * kAcross + column_) * kVector; }

  int column_, row_;
  T sum_[kPieces][kColumns] = {};
};

template <typename T, int kOutputs, int kPixels, int kStride, Layout kLayout>
using WarpApply = std::conditional_t<
    kLayout == Layout::channels_first, RowApply<T, kOutputs, kPixels, kStride>,
    std::conditional_t<kOnTensorCores<T>, PixelApply<T, kOutputs, kPixels, kStride>,
                       FusedApply<T, kOutputs, kPixels, kStride>>>;

}  // namespace fastfcs::cuda
