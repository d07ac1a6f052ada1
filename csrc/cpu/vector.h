// Vectors of float and double for the inner loops, compiled once per instruction set. FASTFCS_ISA
// is the instruction set's name, FASTFCS_VECTOR the size of its vectors in bytes.
//
// Objects for different instruction sets must not share any function: the linker keeps one copy,
// which could then contain instructions that the CPU lacks. Hence the namespaces, and no library
// function that might not be inlined.
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

// V is T or a vector of T.
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

// The same with a conversion: V is double or a vector of doubles, T any floating type.
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
