// Emulates the part of CUDA's <mma.h> that the kernels use: 16 x 16 x 16 products of half types, summed in float.
// An operand is read where the product needs it; each thread holds eight elements of an accumulator, in an order of
// its own, since CUDA leaves the order open.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <stdexcept>
#include <type_traits>

#include "emulation.h"

using __half = torch::headeronly::Half;
using __nv_bfloat16 = torch::headeronly::BFloat16;

namespace nvcuda::wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major };

template <typename Use, int, int, int, typename T, typename Layout = void>
struct fragment {
  const T* from = nullptr;
  unsigned stride = 0;
  float at(int row, int column) const {
    return float(std::is_same_v<Layout, row_major> ? from[row * stride + column] : from[column * stride + row]);
  }
};

template <>
struct fragment<accumulator, 16, 16, 16, float> {
  static constexpr int num_elements = 8;
  float x[num_elements];
  static int row(int e) { return int(threadIdx.x) % 32 / 16 + 2 * e; }
  static int column() { return int(threadIdx.x) % 16; }
};

using Sum = fragment<accumulator, 16, 16, 16, float>;

inline void check(const void* pointer, unsigned stride, unsigned stride_bytes) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % 32 || stride * stride_bytes % 16)
    throw std::runtime_error("a tensor-core matrix is misaligned");
}

inline void fill_fragment(Sum& to, float value) {
  for (float& x : to.x) x = value;
}

template <typename Use, typename T, typename Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, Layout>& to, const T* from, unsigned stride) {
  check(from, stride, sizeof(T));
  to.from = from;
  to.stride = stride;
}

template <typename A, typename B>
void mma_sync(Sum& to, const A& a, const B& b, const Sum& c) {
  for (int e = 0; e < Sum::num_elements; ++e) {
    float sum = 0;
    for (int k = 0; k < 16; ++k) sum += a.at(Sum::row(e), k) * b.at(k, Sum::column());
    to.x[e] = c.x[e] + sum;
  }
}

inline void store_matrix_sync(float* to, const Sum& from, unsigned stride, layout_t) {
  check(to, stride, sizeof(float));
  for (int e = 0; e < Sum::num_elements; ++e) to[Sum::row(e) * stride + Sum::column()] = from.x[e];
}

}  // namespace nvcuda::wmma
