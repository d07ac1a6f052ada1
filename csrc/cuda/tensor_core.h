// Warp-level tensor core instructions (sm_80 and newer): ldmatrix and mma.
//
// load_matrices loads four matrices from shared memory. A matrix has eight rows of 16 bytes: eight
// half numbers or four TF32 numbers per row. Lane l passes the address of row l % 8 of matrix l
// / 8. It receives four bytes of each matrix: bytes 4 (l % 4) to 4 (l % 4) + 3 of row l / 4 or, of
// a transposed matrix of half numbers, rows 2 (l % 4) and 2 (l % 4) + 1 of column l / 4.
//
// multiply computes sum (16 x 8) += a (16 x k) b (k x 8). k spans 32 bytes: 16 half numbers or 8
// TF32 numbers. Lane l holds
//
//   a[m]     row l / 4 + 8 (m % 2), four bytes along k from byte 4 (l % 4) + 16 (m / 2)
//   b[m]     column l / 4, four bytes along k from byte 4 (l % 4) + 16 m
//   sum[e]   row l / 4 + 8 (e / 2), column 2 (l % 4) + e % 2
//
// Without nvcc, the tests' emulation provides the same functions.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>

namespace fastfcs::cuda {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using Word = uint32_t;

// float32 in memory, which tensor cores may round to a 10-bit mantissa.
struct Tf32 {
  Tf32() = default;
  __host__ __device__ explicit Tf32(float from) : value(from) {}
  __host__ __device__ explicit operator float() const { return value; }
  float value;
};

}  // namespace fastfcs::cuda

#ifdef __CUDACC__

namespace fastfcs::cuda {

// A warp's barrier orders its accesses to shared memory. The "memory" clobber keeps the compiler
// from moving a load across it.
__device__ __forceinline__ void load_matrices(Word (&to)[4], const void* row) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(Word (&to)[4], const void* row) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

#define FASTFCS_MULTIPLY(T, shape, type)                                                           \
  __device__ __forceinline__ void multiply(T, float (&sum)[4], const Word(&a)[4], const Word* b) { \
    asm("mma.sync.aligned." shape ".row.col.f32." type "." type                                    \
        ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                     \
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                                   \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                       \
  }
FASTFCS_MULTIPLY(Half, "m16n8k16", "f16")
FASTFCS_MULTIPLY(BFloat16, "m16n8k16", "bf16")
FASTFCS_MULTIPLY(Tf32, "m16n8k8", "tf32")
#undef FASTFCS_MULTIPLY

// Rounds to nearest, ties away from zero. The tensor core itself would truncate.
__device__ __forceinline__ Word rounded_to_tf32(float value) {
  Word bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}

__device__ __forceinline__ float as_float(Word bits) { return __uint_as_float(bits); }

}  // namespace fastfcs::cuda

#else
#include "emulated_tensor_core.h"
#endif
