// Emulates csrc/cuda/tensor_core.h. Every operation involves a whole warp: a lane publishes its row
// or operands, waits for the other lanes and computes its part of the result, so that a lane with
// the wrong part of a fragment gives wrong sums. A misaligned row, which would trap on a GPU,
// throws.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "emulation.h"

namespace emulation {

// Publishes `own` to the warp and returns the values of all its lanes. Two buffers alternate,
// because a lane may be one operation ahead.
template <typename T>
const T* exchanged(const T& own, int line) {
  static std::vector<T> shown[2] = {std::vector<T>(1024), std::vector<T>(1024)};
  T* const all = shown[fibers[current].shuffles++ % 2].data();
  all[current] = own;
  barrier(Scope::warp, line);
  return all + current - lane();
}

using Row = std::array<uint16_t, 8>;

inline Row row_at(const void* address) {
  if (reinterpret_cast<uintptr_t>(address) % 16)
    throw std::runtime_error("a matrix row is misaligned");
  Row row;
  std::memcpy(&row, address, sizeof row);
  return row;
}

// Element i of a word. The lower half number comes first.
inline float element(fastfcs::cuda::Half, uint32_t word, int i) {
  return fastfcs::cuda::Half(static_cast<unsigned short>(word >> 16 * i),
                             fastfcs::cuda::Half::from_bits());
}
inline float element(fastfcs::cuda::BFloat16, uint32_t word, int i) {
  return fastfcs::cuda::BFloat16(static_cast<unsigned short>(word >> 16 * i),
                                 fastfcs::cuda::BFloat16::from_bits());
}
inline float element(fastfcs::cuda::Tf32, uint32_t word, int) {
  const uint32_t bits = word & 0xffffe000;  // a tensor core ignores the rest
  float value;
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

// A lane's elements of a and b, in the order of their words.
template <typename T>
struct Operands {
  static constexpr int kInWord = 4 / sizeof(T);
  float a[4 * kInWord], b[2 * kInWord];
};

}  // namespace emulation

namespace fastfcs::cuda {

inline void load_matrices(Word (&to)[4], const void* row) {
  const emulation::Row* const rows = emulation::exchanged(emulation::row_at(row), __LINE__);
  const int l = emulation::lane();
  for (int m = 0; m < 4; ++m)
    std::memcpy(&to[m], rows[8 * m + l / 4].data() + 2 * (l % 4), sizeof(Word));
}

inline void load_matrices_transposed(Word (&to)[4], const void* row) {
  const emulation::Row* const rows = emulation::exchanged(emulation::row_at(row), __LINE__);
  const int l = emulation::lane();
  for (int m = 0; m < 4; ++m) {
    const auto at = [&](int i) { return Word{rows[8 * m + 2 * (l % 4) + i][l / 4]}; };
    to[m] = at(0) | at(1) << 16;
  }
}

template <typename T>
void multiply(T type, float (&sum)[4], const Word (&a)[4], const Word* b) {
  using Operands = emulation::Operands<T>;
  constexpr int kInWord = Operands::kInWord;
  Operands own;
  for (int i = 0; i < 4 * kInWord; ++i)
    own.a[i] = emulation::element(type, a[i / kInWord], i % kInWord);
  for (int i = 0; i < 2 * kInWord; ++i)
    own.b[i] = emulation::element(type, b[i / kInWord], i % kInWord);
  const Operands* const lanes = emulation::exchanged(own, __LINE__);
  for (int e = 0; e < 4; ++e) {
    const Operands* const row = lanes + emulation::lane() / 4 * 4;
    const Operands* const column = lanes + (2 * (emulation::lane() % 4) + e % 2) * 4;
    float added = 0;
    for (int half = 0; half < 2; ++half)
      for (int quarter = 0; quarter < 4; ++quarter)
        for (int i = 0; i < kInWord; ++i)
          added += row[quarter].a[(e / 2 + 2 * half) * kInWord + i] *
                   column[quarter].b[half * kInWord + i];
    sum[e] += added;
  }
}

inline Word rounded_to_tf32(float value) {
  Word bits;
  std::memcpy(&bits, &value, sizeof bits);
  return (bits + 0x1000) & 0xffffe000;
}

inline float as_float(Word bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace fastfcs::cuda
