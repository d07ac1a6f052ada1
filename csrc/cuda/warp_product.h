// One warp multiplies two 32 x 32 tiles held in shared memory and adds the product to an accumulator in registers:
//
//   accumulator[i][j] += sum_k a[i * kStride + k] b[j * kStride + k]            i, j, k = 0..31
//
// Half types use tensor cores (their products are exact, the sums float32). float32 and float64 are true fused
// multiply-adds on 4 x 8 registers a thread; the same code serves half types where nvcc does not compile.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "../gram.h"
#include "launch.h"

#ifdef __CUDACC__
#include <mma.h>
#endif

namespace fastfcs::cuda {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int kTile = 32;

template <typename T>
class WarpProduct {
 public:
  using A = typename Accumulate<T>::type;
  static constexpr int kVector = 16 / sizeof(T);         // elements that one load of 16 bytes brings
  static constexpr int kStride = kTile + kVector;        // eight rows then start in eight different groups of banks

  __device__ void add(const T* a, const T* b, int lane) {
    a += lane / 4 * kStride;
    b += lane % 4 * kStride;
    FASTFCS_UNROLL
    for (int k = 0; k < kTile; k += kVector) {
      Vector rows[4];
      FASTFCS_UNROLL
      for (int i = 0; i < 4; ++i) rows[i] = *reinterpret_cast<const Vector*>(a + i * 8 * kStride + k);
      FASTFCS_UNROLL
      for (int j = 0; j < 8; ++j) {
        const Vector column = *reinterpret_cast<const Vector*>(b + j * 4 * kStride + k);
        FASTFCS_UNROLL
        for (int i = 0; i < 4; ++i) {
          FASTFCS_UNROLL
          for (int v = 0; v < kVector; ++v) sum_[i][j] += A(rows[i].element[v]) * A(column.element[v]);
        }
      }
    }
  }

  // to[i * kTile + j] = accumulator[i][j]
  __device__ void store(A* to, int lane) const {
    FASTFCS_UNROLL
    for (int i = 0; i < 4; ++i) {
      FASTFCS_UNROLL
      for (int j = 0; j < 8; ++j) to[(lane / 4 + i * 8) * kTile + lane % 4 + j * 4] = sum_[i][j];
    }
  }

 private:
  struct alignas(16) Vector {
    T element[kVector];
  };
  A sum_[4][8] = {};
};

#ifdef __CUDACC__

template <typename T, typename Native>
class TensorCoreProduct {
 public:
  static constexpr int kVector = 16 / sizeof(T);
  static constexpr int kStride = kTile + kVector;

  __device__ TensorCoreProduct() {
    FASTFCS_UNROLL
    for (int i = 0; i < 4; ++i) nvcuda::wmma::fill_fragment(sum_[i / 2][i % 2], 0.f);
  }

  __device__ void add(const T* a, const T* b, int) {
    namespace wmma = nvcuda::wmma;
    FASTFCS_UNROLL
    for (int k = 0; k < kTile; k += 16) {
      wmma::fragment<wmma::matrix_a, 16, 16, 16, Native, wmma::row_major> rows[2];
      wmma::fragment<wmma::matrix_b, 16, 16, 16, Native, wmma::col_major> columns[2];
      FASTFCS_UNROLL
      for (int i = 0; i < 2; ++i) {
        wmma::load_matrix_sync(rows[i], reinterpret_cast<const Native*>(a + i * 16 * kStride + k), kStride);
        wmma::load_matrix_sync(columns[i], reinterpret_cast<const Native*>(b + i * 16 * kStride + k), kStride);
      }
      FASTFCS_UNROLL
      for (int i = 0; i < 4; ++i)
        wmma::mma_sync(sum_[i / 2][i % 2], rows[i / 2], columns[i % 2], sum_[i / 2][i % 2]);
    }
  }

  __device__ void store(float* to, int) const {
    FASTFCS_UNROLL
    for (int i = 0; i < 4; ++i)
      nvcuda::wmma::store_matrix_sync(to + i / 2 * 16 * kTile + i % 2 * 16, sum_[i / 2][i % 2], kTile,
                                      nvcuda::wmma::mem_row_major);
  }

 private:
  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float> sum_[2][2];
};

template <>
class WarpProduct<Half> : public TensorCoreProduct<Half, __half> {};
template <>
class WarpProduct<BFloat16> : public TensorCoreProduct<BFloat16, __nv_bfloat16> {};

#endif

}  // namespace fastfcs::cuda
