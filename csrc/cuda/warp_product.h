// What one warp multiplies, operands in shared memory, sums in its registers.
//
//   WarpProduct   sum[i][j] += sum_p a[i][p] b[j][p]      G and S: over pixels
//   WarpApply     sum[c][p] += sum_k w[k][c] h[k][p]      the correction on tensor cores: over channels
//
// float32 and float64 are true fused multiply-adds. Half types and TF32 use tensor cores (tensor_core.h).
#pragma once

#include <type_traits>

#include "../gram.h"
#include "launch.h"
#include "tensor_core.h"

namespace fastfcs::cuda {

constexpr int kLanes = 32;

template <typename T, int n>
struct alignas(n * sizeof(T)) Vector {
  T element[n];
};

// A thread holds 8 x 8 sums (8 x 4 in float64), so that 16 loads of 16 bytes feed 256 multiply-adds. The lanes that the
// sums leave over, kSlices times as many as needed, take the pixels in turn; the caller adds the slices.
template <typename T, int kSide, int kPixels, int kStride>
class FusedProduct {
 public:
  static constexpr int kRows = 8, kColumns = sizeof(T) == 8 ? 4 : 8;
  static constexpr int kSlices = kLanes * kRows * kColumns / (kSide * kSide);

  // Neighbouring lanes share a row or a column: two quarters of a warp then read shared memory at once.
  __device__ explicit FusedProduct(int lane)
      : column_(lane / 4 % (kAcross / 2) * 2 + lane % 2),
        row_(lane / 4 / (kAcross / 2) % (kDown / 2) * 2 + lane / 2 % 2),
        slice_(lane / 4 / (kAcross / 2) / (kDown / 2)) {}

  __device__ void add(const T* a, const T* b) {
    a += row_ * kStride + slice_ * kVector;
    b += column_ * kStride + slice_ * kVector;
#pragma unroll 1  // two at a time would need more registers than there are
    for (int p = 0; p < kPixels; p += kSlices * kVector) {
      Load rows[kRows];
      FASTFCS_UNROLL
      for (int i = 0; i < kRows; ++i) rows[i] = *reinterpret_cast<const Load*>(a + i * kDown * kStride + p);
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

  // to[slice][i * kSide + j], every slice
  __device__ void store(T* to) const {
    to += (slice_ * kSide + row_) * kSide + column_;
    FASTFCS_UNROLL
    for (int i = 0; i < kRows; ++i) {
      FASTFCS_UNROLL
      for (int j = 0; j < kColumns; ++j) to[i * kDown * kSide + j * kAcross] = sum_[i][j];
    }
  }

 private:
  static constexpr int kVector = 16 / sizeof(T);
  static constexpr int kDown = kSide / kRows, kAcross = kSide / kColumns;  // lanes; row i of a lane is i * kDown + row_
  static_assert(kPixels % (kSlices * kVector) == 0);
  using Load = Vector<T, kVector>;
  int column_, row_, slice_;
  T sum_[kRows][kColumns] = {};
};

template <typename T>
constexpr bool kOnTensorCores = std::is_same_v<T, Half> || std::is_same_v<T, BFloat16> || std::is_same_v<T, Tf32>;

// Products of float32 numbers on tensor cores: 1, of their rounded values, or 3, which with what rounding left reach
// float32's accuracy (3xTF32).
#ifndef FASTFCS_GRAM_TF32_TERMS
#define FASTFCS_GRAM_TF32_TERMS 1
#endif
template <typename T>
constexpr bool kSplit = std::is_same_v<T, Tf32> && FASTFCS_GRAM_TF32_TERMS == 3;

// An operand as tensor cores take it: half numbers as they are, float32 numbers rounded to TF32 and, if split, what
// rounding left of them.
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

// Products of half numbers are exact in float32, but tensor cores cut off what they add: the sum of every stage starts
// from zero and is added by true float32 additions, one for kPixels / depth tensor instructions' worth of sums.
template <typename T, int kSide, int kPixels, int kStride>
class TensorCoreProduct {
 public:
  static constexpr int kSlices = 1;

  __device__ explicit TensorCoreProduct(int lane) : lane_(lane) {}

  __device__ void add(const T* a, const T* b) {
    constexpr int kVector = 16 / sizeof(T);  // pixels of a matrix; a fragment is two matrices deep
    static_assert(kPixels % (2 * kVector) == 0);
    a += lane_ % 16 * kStride + lane_ / 16 * kVector;
    b += (lane_ / 16 * 8 + lane_ % 8) * kStride + lane_ / 8 % 2 * kVector;
    float stage[kRows][kColumns][4] = {};
    FASTFCS_UNROLL
    for (int p = 0; p < kPixels; p += 2 * kVector) {
      Operand<T, 4> rows[kRows], columns[kColumns / 2];
      FASTFCS_UNROLL
      for (int i = 0; i < kRows; ++i) {
        load_matrices(rows[i].high, a + i * 16 * kStride + p);
        rows[i].round();
      }
      FASTFCS_UNROLL
      for (int j = 0; j < kColumns / 2; ++j) {
        load_matrices(columns[j].high, b + j * 16 * kStride + p);
        columns[j].round();
      }
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

  // to[i * kSide + j]
  __device__ void store(float* to) const {
    to += lane_ / 4 * kSide + lane_ % 4 * 2;
    FASTFCS_UNROLL
    for (int i = 0; i < kRows; ++i) {
      FASTFCS_UNROLL
      for (int j = 0; j < kColumns; ++j) {
        FASTFCS_UNROLL
        for (int e = 0; e < 4; e += 2)
          *reinterpret_cast<Vector<float, 2>*>(to + (i * 16 + e * 4) * kSide + j * 8) = {sum_[i][j][e],
                                                                                        sum_[i][j][e + 1]};
      }
    }
  }

 private:
  static constexpr int kRows = kSide / 16, kColumns = kSide / 8;
  int lane_;
  float sum_[kRows][kColumns][4] = {};
};

// Elements between the rows of a stage in shared memory, so that what a warp reads at once lies in different banks:
// eight rows of 16 bytes for tensor cores, rows of neighbouring lanes for fused multiply-adds.
template <typename T>
constexpr int kProductPad = kOnTensorCores<T> ? 16 / int(sizeof(T)) : 8;

template <typename T, int kSide, int kPixels, int kStride>
using WarpProduct = std::conditional_t<kOnTensorCores<T>, TensorCoreProduct<T, kSide, kPixels, kStride>,
                                       FusedProduct<T, kSide, kPixels, kStride>>;

// sum[c][p] += sum_k w[k][c] h[k * kStride + p]       c < kOutputs, p < kPixels, k < depth
//
// w is the sum of kTerms weights, each stored in fragments, the order in which lanes multiply them.
// Half numbers have two terms. TF32 has one, since rounded numbers were asked for, or two if h is split as well.
template <typename T, int kOutputs, int kPixels, int kStride>
class WarpApply {
  static constexpr bool kHalf = sizeof(T) == 2;
  static constexpr int kInWord = 4 / sizeof(T);
  static constexpr int kGroup = kHalf ? 16 : 32;  // pixels that are loaded at a time

 public:
  static constexpr int kTerms = sizeof(T) == 2 || kSplit<T> ? 2 : 1;
  // What is stored at a time: 16 outputs of kPiecePixels, rows kPieceStride apart.
  static constexpr int kPiecePixels = 128 / sizeof(T), kPieceStride = 144 / sizeof(T);
  static constexpr int kPieces = kOutputs / 16 * (kPixels / kPiecePixels);

  __device__ explicit WarpApply(int lane) : lane_(lane) {}

  // Weights [k][c] of kFragmentDepth k's and 16 outputs are a fragment: 16 bytes of each lane, one after another. Element
  // e of a lane is weight [depth_of(lane, e)][output_of(lane, e)].
  static constexpr int kFragmentDepth = 32 / sizeof(T), kLaneWeights = 16 / sizeof(T);
  static constexpr int kFragment = kLanes * kLaneWeights;
  __device__ static int depth_of(int lane, int e) {
    return lane % 4 * kInWord + e % kInWord + e / kInWord / 2 * (kFragmentDepth / 2);
  }
  __device__ static int output_of(int lane, int e) { return lane / 4 + e / kInWord % 2 * 8; }

  // high, low: the first output's first fragment; fragments of the same k's follow one another, kOutputs / 16 of them
  // every kAcross. h: at the first pixel. Reads whole fragments.
  template <int kAcross>
  __device__ void add(const T* high, const T* low, const T* h, int depth) {
#pragma unroll 1
    for (int k = 0; k < depth; k += kFragmentDepth) {
      Operand<T, 4> weights[kOutputs / 16];
      FASTFCS_UNROLL
      for (int i = 0; i < kOutputs / 16; ++i) {
        const int from = (k / kFragmentDepth * kAcross + i) * kFragment + lane_ * kLaneWeights;
        copy(high + from, weights[i].high);
        if constexpr (kTerms == 2) copy(low + from, weights[i].low);
      }
      FASTFCS_UNROLL
      for (int group = 0; group < kPixels / kGroup; ++group) {
        Operand<T, kGroup / 4> pixels;  // two words for each eight pixels
        load(h + k * kStride + group * kGroup, pixels);
        pixels.round();
        FASTFCS_UNROLL
        for (int i = 0; i < kOutputs / 16; ++i) {
          FASTFCS_UNROLL
          for (int j = 0; j < kGroup / 8; ++j) {
            float(&sum)[4] = sum_[i][group * (kGroup / 8) + j];
            if constexpr (kTerms == 2) multiply(T{}, sum, weights[i].low, pixels.high + 2 * j);
            if constexpr (kSplit<T>) multiply(T{}, sum, weights[i].high, pixels.low + 2 * j);
            multiply(T{}, sum, weights[i].high, pixels.high + 2 * j);
          }
        }
      }
    }
  }

  // to[c * kPieceStride + p] = scales[c] times the sum: a piece of 16 outputs at output(piece), whose scales are given,
  // and kPiecePixels pixels at pixel(piece).
  __device__ void store(int piece, const float* scales, T* to) const {
    constexpr int kBlocks = kPiecePixels / 8;
    const auto& sums = sum_[piece / (kPixels / kPiecePixels)];
    const int first = piece % (kPixels / kPiecePixels) * kBlocks;
    FASTFCS_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int c = lane_ / 4 + 8 * half;
      const float scale = scales[c];
      const auto at = [&](int j, int e) { return static_cast<T>(sums[first + j][2 * half + e] * scale); };
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
            *reinterpret_cast<Vector<T, 4>*>(row + j * 8 + lane_ % 4 * 8 + e * 4) = {at(j, e), at(j + 1, e),
                                                                                    at(j + 2, e), at(j + 3, e)};
        }
      }
    }
  }
  __device__ static int output(int piece) { return piece / (kPixels / kPiecePixels) * 16; }
  __device__ static int pixel(int piece) { return piece % (kPixels / kPiecePixels) * kPiecePixels; }

 private:
  static_assert(kPixels % kPiecePixels == 0 && kPiecePixels % kGroup == 0);

  __device__ static void copy(const T* from, Word (&to)[4]) {
    const auto words = *reinterpret_cast<const Vector<Word, 4>*>(from);
    FASTFCS_UNROLL
    for (int m = 0; m < 4; ++m) to[m] = words.element[m];
  }

  // Half numbers are transposed on their way. There is no such load for TF32, so a lane takes four neighbouring pixels
  // of a row, as one column of each of four products: products of 8 pixels hold every fourth of 32.
  __device__ void load(const T* h, Operand<T, kGroup / 4>& to) const {
    if constexpr (kHalf) {
      load_matrices_transposed(to.high, h + (lane_ / 8 % 2 * 8 + lane_ % 8) * kStride + lane_ / 16 * 8);
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

}  // namespace fastfcs::cuda
