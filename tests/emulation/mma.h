// Emulates the part of CUDA's <mma.h> that the kernels use: products of half types, 16 x 16 x 16, and of TF32,
// 16 x 16 x 8, summed in float.
// An operand is read where the product needs it; each thread holds eight elements of an accumulator, in an order of
// its own, since CUDA leaves the order open.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <cstring>
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

namespace precision {
struct tf32;
}

// Rounded to nearest, as cvt.rna.tf32 does.
inline float __float_to_tf32(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits = (bits + 0x1000) & 0xffffe000;
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

template <typename T>
struct in_memory {
  using type = T;
};
template <>
struct in_memory<precision::tf32> {
  using type = float;
};

template <typename Use, int, int, int, typename T, typename Layout = void>
struct fragment {
  static constexpr int num_elements = 0;  // to round: `at` does
  float x[1];
  const typename in_memory<T>::type* from = nullptr;
  unsigned stride = 0;
  float at(int row, int column) const {
    const float value(std::is_same_v<Layout, row_major> ? from[row * stride + column] : from[column * stride + row]);
    return std::is_same_v<T, precision::tf32> ? __float_to_tf32(value) : value;
  }
};

template <int depth>
struct fragment<accumulator, 16, 16, depth, float> {
  static constexpr int num_elements = 8;
  float x[num_elements];
  static int row(int e) { return int(threadIdx.x) % 32 / 16 + 2 * e; }
  static int column() { return int(threadIdx.x) % 16; }
};

template <int depth>
using Sum = fragment<accumulator, 16, 16, depth, float>;

inline void check(const void* pointer, unsigned stride, unsigned stride_bytes) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % 32 || stride * stride_bytes % 16)
    throw std::runtime_error("a tensor-core matrix is misaligned");
}

template <int depth>
void fill_fragment(Sum<depth>& to, float value) {
  for (float& x : to.x) x = value;
}

template <typename Use, int depth, typename T, typename Layout>
void load_matrix_sync(fragment<Use, 16, 16, depth, T, Layout>& to, const typename in_memory<T>::type* from,
                      unsigned stride) {
  check(from, stride, sizeof *from);
  to.from = from;
  to.stride = stride;
}

template <int depth, typename A, typename B>
void mma_sync(Sum<depth>& to, const A& a, const B& b, const Sum<depth>& c) {
  for (int e = 0; e < to.num_elements; ++e) {
    float sum = 0;
    for (int k = 0; k < depth; ++k) sum += a.at(to.row(e), k) * b.at(k, to.column());
    to.x[e] = c.x[e] + sum;
  }
}

template <int depth>
void store_matrix_sync(float* to, const Sum<depth>& from, unsigned stride, layout_t) {
  check(to, stride, sizeof(float));
  for (int e = 0; e < from.num_elements; ++e) to[from.row(e) * stride + from.column()] = from.x[e];
}

}  // namespace nvcuda::wmma
