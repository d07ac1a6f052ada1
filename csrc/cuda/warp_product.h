// What one warp multiplies, operands in shared memory, sums in its registers.
//
//   WarpProduct   sum[i][j] += sum_p a[i][p] b[j][p]      G and S: over pixels
//   WarpApply     sum[c][p] += sum_k w[k][c] h[k][p]      the correction, in half types: over channels
//
// float32 and float64 are true fused multiply-adds. Half types and TF32 use tensor cores, through nvcuda::wmma and not
// through mma instructions of our own: no fragment's layout need be known, and the emulation of the tests can run it.
#pragma once

#include <mma.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>

#include "../gram.h"
#include "launch.h"

namespace fastfcs::cuda {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int kLanes = 32;

// float32 in memory that tensor cores may round, to ten bits behind the point.
struct Tf32 {
  Tf32() = default;
  __host__ __device__ explicit Tf32(float from) : value(from) {}
  __host__ __device__ explicit operator float() const { return value; }
  float value;
};

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

// Of a type that tensor cores multiply: its name in nvcuda::wmma, in memory and in a product, and a product's depth.
struct NoTensorCore {
  static constexpr bool kExists = false;
};
template <typename Memory, typename Factor, int depth>
struct WithTensorCore {
  static constexpr bool kExists = true;
  static constexpr int kDepth = depth;
  using Sum = nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, depth, float>;
  using memory = Memory;
  using factor = Factor;
};
template <typename T>
struct TensorCore : NoTensorCore {};
template <>
struct TensorCore<Half> : WithTensorCore<__half, __half, 16> {};
template <>
struct TensorCore<BFloat16> : WithTensorCore<__nv_bfloat16, __nv_bfloat16, 16> {};
template <>
struct TensorCore<Tf32> : WithTensorCore<float, nvcuda::wmma::precision::tf32, 8> {};

template <typename T, typename Use, typename Layout>
struct Fragment : nvcuda::wmma::fragment<Use, 16, 16, TensorCore<T>::kDepth, typename TensorCore<T>::factor, Layout> {
  __device__ Fragment(const T* from, unsigned stride) {
    nvcuda::wmma::load_matrix_sync(*this, reinterpret_cast<const typename TensorCore<T>::memory*>(from), stride);
    if constexpr (std::is_same_v<T, Tf32>)  // to nearest: the tensor core itself would cut off
      for (int e = 0; e < this->num_elements; ++e) this->x[e] = nvcuda::wmma::__float_to_tf32(this->x[e]);
  }
};

// Products of these types are exact in float32, but tensor cores cut off what they add: every stage's sum starts from
// zero and is added by true float32 additions, kSide^2 / 32 a thread beside kPixels / kDepth times as many tensor steps.
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
        Sum stage;
        nvcuda::wmma::fill_fragment(stage, 0.f);
        FASTFCS_UNROLL
        for (int p = 0; p < kPixels; p += TensorCore<T>::kDepth) {
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
  using Sum = typename TensorCore<T>::Sum;
  static constexpr int kCount = kSide / 16;
  Sum sum_[kCount * kCount];
};

template <typename T, int kSide, int kPixels, int kStride>
using WarpProduct = std::conditional_t<TensorCore<T>::kExists, TensorCoreProduct<T, kSide, kPixels, kStride>,
                                       FusedProduct<T, kSide, kPixels, kStride>>;

// sum[c][p] += sum_k (high + low)[k * kWeightStride + c] h[k * kStride + p]       c < kOutputs, p < kPixels, k < kDepth
//
// In TF32 there is no low: rounded numbers were asked for.
template <typename T, int kOutputs, int kPixels, int kDepth, int kWeightStride, int kStride>
class WarpApply {
 public:
  static constexpr bool kTwoTerms = sizeof(T) == 2;
  static constexpr int kPieceOutputs = 16, kPiecePixels = kPixels < 64 ? kPixels : 64, kPieceStride = kPiecePixels + 4;
  static constexpr int kPieces = kOutputs / kPieceOutputs * (kPixels / kPiecePixels);

  __device__ WarpApply() {
    FASTFCS_UNROLL
    for (auto& sum : sum_) nvcuda::wmma::fill_fragment(sum, 0.f);
  }

  __device__ void add(const T* high, const T* low, const T* h) {
    using Weights = Fragment<T, nvcuda::wmma::matrix_a, nvcuda::wmma::col_major>;
    using Pixels = Fragment<T, nvcuda::wmma::matrix_b, nvcuda::wmma::row_major>;
#pragma unroll 1
    for (int k = 0; k < kDepth; k += TensorCore<T>::kDepth) {
      FASTFCS_UNROLL
      for (int c = 0; c < kOutputs / 16; ++c) {
        const Weights w_high(high + k * kWeightStride + c * 16, kWeightStride);
        const Weights w_low((kTwoTerms ? low : high) + k * kWeightStride + c * 16, kWeightStride);
        FASTFCS_UNROLL
        for (int p = 0; p < kPixels / 16; ++p) {
          const Pixels pixels(h + k * kStride + p * 16, kStride);
          Sum& sum = sum_[c * (kPixels / 16) + p];
          if constexpr (kTwoTerms) nvcuda::wmma::mma_sync(sum, w_low, pixels, sum);
          nvcuda::wmma::mma_sync(sum, w_high, pixels, sum);
        }
      }
    }
  }

  // to[c * kPieceStride + p]: a piece of 16 outputs at output(piece) and 64 pixels at pixel(piece).
  __device__ void store(int piece, float* to) const {
    FASTFCS_UNROLL
    for (int p = 0; p < kPiecePixels / 16; ++p)
      nvcuda::wmma::store_matrix_sync(to + p * 16, sum_[piece * (kPiecePixels / 16) + p], kPieceStride,
                                      nvcuda::wmma::mem_row_major);
  }
  __device__ static int output(int piece) { return piece / (kPixels / kPiecePixels) * kPieceOutputs; }
  __device__ static int pixel(int piece) { return piece % (kPixels / kPiecePixels) * kPiecePixels; }

 private:
  using Sum = typename TensorCore<T>::Sum;
  Sum sum_[kOutputs / 16 * (kPixels / 16)];
};

}  // namespace fastfcs::cuda
