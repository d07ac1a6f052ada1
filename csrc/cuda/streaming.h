// Accesses to values that are touched once, marked evict-first so that they do not displace h from
// L2.
#pragma once

#include "launch.h"

namespace fastfcs::cuda {

// 0: ordinary accesses. 1: results are stored evict-first. 2: h is also loaded evict-first when it
// is read for the last time.
#ifndef FASTFCS_GRAM_STREAMING
#define FASTFCS_GRAM_STREAMING 1
#endif

#ifdef __CUDACC__
template <int bytes>
struct Bits;  // an integer type of that size
template <>
struct Bits<2> {
  using type = unsigned short;
};
template <>
struct Bits<4> {
  using type = unsigned;
};
template <>
struct Bits<8> {
  using type = uint2;
};
template <>
struct Bits<16> {
  using type = uint4;
};
#endif

template <typename T>
__device__ __forceinline__ T load_once(const T* from) {
#if defined(__CUDACC__) && FASTFCS_GRAM_STREAMING > 1
  using B = typename Bits<sizeof(T)>::type;
  const B bits = __ldcs(reinterpret_cast<const B*>(from));
  return reinterpret_cast<const T&>(bits);
#else
  return *from;
#endif
}

template <typename T>
__device__ __forceinline__ void store_once(T* to, const T& value) {
#if defined(__CUDACC__) && FASTFCS_GRAM_STREAMING > 0
  using B = typename Bits<sizeof(T)>::type;
  __stcs(reinterpret_cast<B*>(to), reinterpret_cast<const B&>(value));
#else
  *to = value;
#endif
}

}  // namespace fastfcs::cuda
