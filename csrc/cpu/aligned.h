// Buffers of the inner loops, compiled once per instruction set (vector.h).
#pragma once

#include <memory>

#include "vector.h"

namespace fastfcs {
namespace FASTFCS_ISA {
namespace {

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t round_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

struct alignas(64) CacheLine {
  char bytes[64];
};

template <typename A>
struct AlignedBuffer {
  explicit AlignedBuffer(int64_t count) : lines(new CacheLine[(count * sizeof(A) + 63) / 64]) {}
  A* get() { return reinterpret_cast<A*>(lines.get()); }
  std::unique_ptr<CacheLine[]> lines;
};

}  // namespace
}  // namespace FASTFCS_ISA
}  // namespace fastfcs
