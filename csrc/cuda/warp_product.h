// Matrix products of one warp: operands in shared memory, sums in registers.
//
//   WarpProduct   sum[i][j] += sum_p a[i][p] b[j][p]   G and S: over pixels
//   WarpApply     sum[c][p] += sum_k w[k][c] h[k][p]   correction on tensor cores: over channels
//
// float32 and float64 use fused multiply-adds, half types and TF32 tensor cores (tensor_core.h).
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

// A thread holds 8 x 8 sums (8 x 4 in float64), so that 16 loads of 16 bytes feed 256
// multiply-adds. A small tile needs fewer than 32 lanes. The warp then splits into kPixelGroups
// groups of lanes, which take the pixels in turn, and the caller adds the sums of the groups.
template <typename T, int kSide, int kPixels, int kStride>
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

  // Writes the sums of every group, [kPixelGroups, kSide, kSide].
  __device__ void store(T* to) const {
    to += (pixel_group_ * kSide + row_) * kSide + column_;
    FASTFCS_UNROLL
    for (int i = 0; i < kRows; ++i) {
      FASTFCS_UNROLL
      for (int j = 0; j < kColumns; ++j) to[i * kDown * kSide + j * kAcross] = sum_[i][j];
    }
  }

 private:
  static constexpr int kVector = 16 / sizeof(T);
  // Lanes per column and row of the tile. Row i of a lane is row i * kDown + row_ of the tile.
  static constexpr int kDown = kSide / kRows, kAcross = kSide / kColumns;
  static_assert(kPixels % (kPixelGroups * kVector) == 0);
  using Load = Vector<T, kVector>;
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
template <typename T, int kSide, int kPixels, int kStride>
class TensorCoreProduct {
 public:
  static constexpr int kPixelGroups = 1;

  __device__ explicit TensorCoreProduct(int lane) : lane_(lane) {}

  __device__ void add(const T* a, const T* b) {
    constexpr int kVector = 16 / sizeof(T);  // pixels per matrix; a fragment is two matrices deep
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

  // Writes the sums, [kSide, kSide].
  __device__ void store(float* to) const {
    to += lane_ / 4 * kSide + lane_ % 4 * 2;
    FASTFCS_UNROLL
    for (int i = 0; i < kRows; ++i) {
      FASTFCS_UNROLL
      for (int j = 0; j < kColumns; ++j) {
        FASTFCS_UNROLL
        for (int e = 0; e < 4; e += 2)
          *reinterpret_cast<Vector<float, 2>*>(to + (i * 16 + e * 4) * kSide + j * 8) = {
              sum_[i][j][e], sum_[i][j][e + 1]};
      }
    }
  }

 private:
  static constexpr int kRows = kSide / 16, kColumns = kSide / 8;
  int lane_;
  float sum_[kRows][kColumns][4] = {};
};

// Padding, in elements, of the rows of a stage in shared memory. It puts simultaneous reads of a
// warp into different banks: eight rows of 16 bytes for tensor cores, the rows of neighbouring
// lanes for fused multiply-adds.
template <typename T>
constexpr int kProductPad = kOnTensorCores<T> ? 16 / int(sizeof(T)) : 8;

template <typename T, int kSide, int kPixels, int kStride>
using WarpProduct =
    std::conditional_t<kOnTensorCores<T>, TensorCoreProduct<T, kSide, kPixels, kStride>,
                       FusedProduct<T, kSide, kPixels, kStride>>;

// sum[c][p] += sum_k w[k][c] h[k * kStride + p]       c < kOutputs, p < kPixels, k < depth
//
// w is the sum of kWeightParts numbers. Each part is stored in fragments, the order in which lanes
// multiply it. Half types have two parts. TF32 has one, since rounding was requested, or two if h
// is split as well.
template <typename T, int kOutputs, int kPixels, int kStride>
class WarpApply {
  static constexpr bool kHalf = sizeof(T) == 2;
  static constexpr int kInWord = 4 / sizeof(T);
  static constexpr int kGroup = kHalf ? 16 : 32;  // pixels loaded at a time

 public:
  static constexpr int kWeightParts = sizeof(T) == 2 || kSplit<T> ? 2 : 1;
  // Results are stored in pieces of 16 outputs by kPiecePixels, with rows kPieceStride apart.
  static constexpr int kPiecePixels = 128 / sizeof(T), kPieceStride = 144 / sizeof(T);
  static constexpr int kPieces = kOutputs / 16 * (kPixels / kPiecePixels);

  __device__ explicit WarpApply(int lane) : lane_(lane) {}

  // A fragment is the weights [k][c] of kFragmentDepth k's and 16 outputs: 16 consecutive bytes per
  // lane. Element e of a lane is weight [depth_of(lane, e)][output_of(lane, e)].
  static constexpr int kFragmentDepth = 32 / sizeof(T), kLaneWeights = 16 / sizeof(T);
  static constexpr int kFragment = kLanes * kLaneWeights;
  __device__ static int depth_of(int lane, int e) {
    return lane % 4 * kInWord + e % kInWord + e / kInWord / 2 * (kFragmentDepth / 2);
  }
  __device__ static int output_of(int lane, int e) { return lane / 4 + e / kInWord % 2 * 8; }

  // high and low point to the first fragment of the first output, h to the first pixel. The
  // fragments of one depth are consecutive, kAcross of them, of which this warp reads kOutputs
  // / 16. Fragments are read whole: rows of h up to the next multiple of kFragmentDepth must exist.
  template <int kAcross>
  __device__ void add(const T* high, const T* low, const T* h, int depth) {
#pragma unroll 1
    for (int k = 0; k < depth; k += kFragmentDepth) {
      Operand<T, 4> weights[kOutputs / 16];
      FASTFCS_UNROLL
      for (int i = 0; i < kOutputs / 16; ++i) {
        const int from = (k / kFragmentDepth * kAcross + i) * kFragment + lane_ * kLaneWeights;
        copy(high + from, weights[i].high);
        if constexpr (kWeightParts == 2) copy(low + from, weights[i].low);
      }
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
            if constexpr (kWeightParts == 2)
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

  __device__ static void copy(const T* from, Word (&to)[4]) {
    const auto words = *reinterpret_cast<const Vector<Word, 4>*>(from);
    FASTFCS_UNROLL
    for (int m = 0; m < 4; ++m) to[m] = words.element[m];
  }

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

}  // namespace fastfcs::cuda
