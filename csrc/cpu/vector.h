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

}  // namespace
}  // namespace FASTFCS_ISA
}  // namespace fastfcs
