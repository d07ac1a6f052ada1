// Emulates csrc/cuda/tensor_core.h. Every operation concerns a whole warp: a lane shows the others its row or its
// operands, waits for them and takes its share, so that lanes in the wrong place of a fragment give wrong sums.
// A misaligned row, which would trap on a GPU, throws.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "emulation.h"

namespace emulation {

// What each thread of the block shows in a warp-wide operation, in two places by turns: it may be one operation ahead.
template <typename T>
T& shown(int thread, int turn) {
  static std::vector<std::array<T, 2>> all(1024);
  return all[thread][turn];
}

// Shows `own` to the warp and returns what each of its lanes shows.
template <typename T>
std::array<const T*, kWarp> exchanged(const T& own, int line) {
  const int turn = fibers[current].shuffles++ % 2;
  shown<T>(current, turn) = own;
  barrier(Scope::warp, line);
  std::array<const T*, kWarp> all;
  for (int l = 0; l < kWarp; ++l) all[l] = &shown<T>(current - lane() + l, turn);
  return all;
}

using Row = std::array<std::uint16_t, 8>;

inline Row row_at(const void* address) {
  if (reinterpret_cast<std::uintptr_t>(address) % 16) throw std::runtime_error("a matrix row is misaligned");
  Row row;
  std::memcpy(&row, address, sizeof row);
  return row;
}

struct Operands {
  std::array<std::uint32_t, 4> a;
  std::array<std::uint32_t, 2> b;
};

// Element i of the four bytes: the lower half number first.
inline float element(fastfcs::cuda::Half, std::uint32_t word, int i) {
  return fastfcs::cuda::Half(static_cast<unsigned short>(word >> 16 * i), fastfcs::cuda::Half::from_bits());
}
inline float element(fastfcs::cuda::BFloat16, std::uint32_t word, int i) {
  return fastfcs::cuda::BFloat16(static_cast<unsigned short>(word >> 16 * i), fastfcs::cuda::BFloat16::from_bits());
}
inline float element(fastfcs::cuda::Tf32, std::uint32_t word, int) {
  const std::uint32_t bits = word & 0xffffe000;  // a tensor core ignores the rest
  float value;
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

}  // namespace emulation

namespace fastfcs::cuda {

inline void load_matrices(Word (&to)[4], const void* row) {
  const auto rows = emulation::exchanged(emulation::row_at(row), __LINE__);
  const int l = emulation::lane();
  for (int m = 0; m < 4; ++m) std::memcpy(&to[m], rows[8 * m + l / 4]->data() + 2 * (l % 4), sizeof(Word));
}

inline void load_matrices_transposed(Word (&to)[4], const void* row) {
  const auto rows = emulation::exchanged(emulation::row_at(row), __LINE__);
  const int l = emulation::lane();
  for (int m = 0; m < 4; ++m) {
    const auto at = [&](int i) { return Word{(*rows[8 * m + 2 * (l % 4) + i])[l / 4]}; };
    to[m] = at(0) | at(1) << 16;
  }
}

template <typename T>
void multiply(T type, float (&sum)[4], const Word (&a)[4], const Word* b) {
  const auto lanes =
      emulation::exchanged(emulation::Operands{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, __LINE__);
  constexpr int kInWord = 4 / sizeof(T);
  for (int e = 0; e < 4; ++e) {
    const int row = emulation::lane() / 4, column = 2 * (emulation::lane() % 4) + e % 2;
    float added = 0;
    for (int half = 0; half < 2; ++half)
      for (int quarter = 0; quarter < 4; ++quarter)
        for (int i = 0; i < kInWord; ++i)
          added += emulation::element(type, lanes[row * 4 + quarter]->a[e / 2 + 2 * half], i) *
                   emulation::element(type, lanes[column * 4 + quarter]->b[half], i);
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
