// Vectors of float and double for the inner loops. Each instruction set compiles its own copy: FASTFCS_ISA is its name,
// FASTFCS_VECTOR the bytes of its vectors. Nothing here may be shared between objects, or code for a newer CPU could be
// linked into an older one's path: hence the namespace, and no library function that might not be inlined.
#pragma once

#include <cstdint>
#include <cstring>

namespace fastfcs {
namespace FASTFCS_ISA {
namespace {

typedef float FloatVector __attribute__((vector_size(FASTFCS_VECTOR)));
typedef double DoubleVector __attribute__((vector_size(FASTFCS_VECTOR)));

template <typename T>
struct VectorOf;
template <>
struct VectorOf<float> {
  using type = FloatVector;
};
template <>
struct VectorOf<double> {
  using type = DoubleVector;
};

// V is T itself or its vector.
template <typename V, typename T>
inline V load(const T* from) {
  V value;
  std::memcpy(&value, from, sizeof(V));
  return value;
}

template <typename V, typename T>
inline void store(T* to, V value) {
  std::memcpy(to, &value, sizeof(V));
}

// The same for arrays of another type than V's elements, which are double.
template <typename V, typename T>
inline V load_as(const T* from) {
  if constexpr (sizeof(V) == sizeof(double)) {
    return *from;
  } else {
    typedef T Narrow __attribute__((vector_size(sizeof(V) / sizeof(double) * sizeof(T))));
    return __builtin_convertvector(load<Narrow>(from), V);
  }
}

template <typename V, typename T>
inline void store_as(T* to, V value) {
  if constexpr (sizeof(V) == sizeof(double)) {
    *to = T(value);
  } else {
    typedef T Narrow __attribute__((vector_size(sizeof(V) / sizeof(double) * sizeof(T))));
    store(to, __builtin_convertvector(value, Narrow));
  }
}

}  // namespace
}  // namespace FASTFCS_ISA
}  // namespace fastfcs
