// What one warp multiplies, operands in shared memory, sums in its registers.
//
//   WarpProduct   sum[i][j] += sum_p a[i][p] b[j][p]      G and S: over pixels
//   WarpApply     sum[c][p] += sum_k w[k][c] h[k][p]      the correction, in half types: over channels
//
// float32 and float64 are true fused multiply-adds. Half types use tensor cores, through nvcuda::wmma and not through
// mma instructions of our own: no fragment's layout need be known, and the emulation of the tests can run it.
#pragma once

#include <mma.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "../gram.h"
#include "launch.h"

namespace fastfcs::cuda {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int kLanes = 32;

template <typename T, int n>
struct alignas(n * sizeof(T)) Vector {
  T element[n];
};

// A thread holds 8 x 8 sums (8 x 4 in float64), so that 16 loads of 16 bytes feed 256 multiply-adds. The lanes that the
// sums leave over, kSlices times as many as needed, take the pixels in turn; the caller adds the slices.
template <typename T, int kSide, int kPixels, int kStride>
class WarpProduct {
 public:
  static constexpr int kRows = 8, kColumns = sizeof(T) == 8 ? 4 : 8;
  static constexpr int kSlices = kLanes * kRows * kColumns / (kSide * kSide);

  // Neighbouring lanes share a row or a column: two quarters of a warp then read shared memory at once.
  __device__ explicit WarpProduct(int lane)
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
struct NativeType;
template <>
struct NativeType<Half> {
  using type = __half;
};
template <>
struct NativeType<BFloat16> {
  using type = __nv_bfloat16;
};

template <typename T, typename Use, typename Layout>
struct Fragment : nvcuda::wmma::fragment<Use, 16, 16, 16, typename NativeType<T>::type, Layout> {
  __device__ Fragment(const T* from, unsigned stride) {
    nvcuda::wmma::load_matrix_sync(*this, reinterpret_cast<const typename NativeType<T>::type*>(from), stride);
  }
};

using SumFragment = nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float>;

// Products of half types are exact in float32, but tensor cores cut off what they add: every stage's sum starts from
// zero and is added by true float32 additions, kSide^2 / 32 a thread beside kPixels / 16 times as many tensor steps.
template <typename T, int kSide, int kPixels, int kStride>
class TensorCoreProduct {
 public:
  static constexpr int kSlices = 1;

  __device__ explicit TensorCoreProduct(int) {
    FASTFCS_UNROLL
    for (int i = 0; i < kCount * kCount; ++i) nvcuda::wmma::fill_fragment(sum_[i], 0.f);
  }

  __device__ void add(const T* a, const T* b) {
    FASTFCS_UNROLL
    for (int i = 0; i < kCount; ++i) {
      FASTFCS_UNROLL
      for (int j = 0; j < kCount; ++j) {
        SumFragment stage;
        nvcuda::wmma::fill_fragment(stage, 0.f);
        FASTFCS_UNROLL
        for (int p = 0; p < kPixels; p += 16) {
          const Fragment<T, nvcuda::wmma::matrix_a, nvcuda::wmma::row_major> rows(a + i * 16 * kStride + p, kStride);
          const Fragment<T, nvcuda::wmma::matrix_b, nvcuda::wmma::col_major> columns(b + j * 16 * kStride + p, kStride);
          nvcuda::wmma::mma_sync(stage, rows, columns, stage);
        }
        FASTFCS_UNROLL
        for (int e = 0; e < stage.num_elements; ++e) sum_[i * kCount + j].x[e] += stage.x[e];
      }
    }
  }

  __device__ void store(float* to) const {
    FASTFCS_UNROLL
    for (int i = 0; i < kCount * kCount; ++i)
      nvcuda::wmma::store_matrix_sync(to + i / kCount * 16 * kSide + i % kCount * 16, sum_[i], kSide,
                                      nvcuda::wmma::mem_row_major);
  }

 private:
  static constexpr int kCount = kSide / 16;
  SumFragment sum_[kCount * kCount];
};

template <int kSide, int kPixels, int kStride>
class WarpProduct<Half, kSide, kPixels, kStride> : public TensorCoreProduct<Half, kSide, kPixels, kStride> {
  using TensorCoreProduct<Half, kSide, kPixels, kStride>::TensorCoreProduct;
};
template <int kSide, int kPixels, int kStride>
class WarpProduct<BFloat16, kSide, kPixels, kStride> : public TensorCoreProduct<BFloat16, kSide, kPixels, kStride> {
  using TensorCoreProduct<BFloat16, kSide, kPixels, kStride>::TensorCoreProduct;
};

// sum[c][p] += sum_k (high + low)[k * kWeightStride + c] h[k * kStride + p]       c < kOutputs, p < kPixels, k < kDepth
template <typename T, int kOutputs, int kPixels, int kDepth, int kWeightStride, int kStride>
class WarpApply {
 public:
  static constexpr int kPieceOutputs = 16, kPiecePixels = 64, kPieceStride = kPiecePixels + 4;
  static constexpr int kPieces = kOutputs / kPieceOutputs * (kPixels / kPiecePixels);

  __device__ WarpApply() {
    FASTFCS_UNROLL
    for (auto& sum : sum_) nvcuda::wmma::fill_fragment(sum, 0.f);
  }

  __device__ void add(const T* high, const T* low, const T* h) {
    using Weights = Fragment<T, nvcuda::wmma::matrix_a, nvcuda::wmma::col_major>;
    using Pixels = Fragment<T, nvcuda::wmma::matrix_b, nvcuda::wmma::row_major>;
#pragma unroll 1
    for (int k = 0; k < kDepth; k += 16) {
      FASTFCS_UNROLL
      for (int c = 0; c < kOutputs / 16; ++c) {
        const Weights w_high(high + k * kWeightStride + c * 16, kWeightStride);
        const Weights w_low(low + k * kWeightStride + c * 16, kWeightStride);
        FASTFCS_UNROLL
        for (int p = 0; p < kPixels / 16; ++p) {
          const Pixels pixels(h + k * kStride + p * 16, kStride);
          SumFragment& sum = sum_[c * (kPixels / 16) + p];
          nvcuda::wmma::mma_sync(sum, w_low, pixels, sum);
          nvcuda::wmma::mma_sync(sum, w_high, pixels, sum);
        }
      }
    }
  }

  // to[c * kPieceStride + p]: a piece of 16 outputs at output(piece) and 64 pixels at pixel(piece).
  __device__ void store(int piece, float* to) const {
    FASTFCS_UNROLL
    for (int p = 0; p < 4; ++p)
      nvcuda::wmma::store_matrix_sync(to + p * 16, sum_[piece * 4 + p], kPieceStride, nvcuda::wmma::mem_row_major);
  }
  __device__ static int output(int piece) { return piece / (kPixels / kPiecePixels) * kPieceOutputs; }
  __device__ static int pixel(int piece) { return piece % (kPixels / kPiecePixels) * kPiecePixels; }

 private:
  SumFragment sum_[kOutputs / 16 * (kPixels / 16)];
};

}  // namespace fastfcs::cuda
