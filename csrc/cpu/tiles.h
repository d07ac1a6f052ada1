// The tile registers of AMX, emulated for instruction sets that lack them (vector.h).
#pragma once

#include <cstdint>
#include <cstring>

#include "vector.h"

namespace fastfcs {
namespace FASTFCS_ISA {
namespace {

constexpr int kTileRows = 16, kTileBytes = 64;

// Eight tiles of 16 x 16 floats, or of 16 x 32 bfloat16. Pitches are in bytes, from row to row.
class Tiles {
 public:
#ifdef __AMX_BF16__
  Tiles() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } configuration;
    for (int tile = 0; tile < 8; ++tile) {
      configuration.bytes[tile] = kTileBytes;
      configuration.rows[tile] = kTileRows;
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(configuration));
  }
  ~Tiles() { __asm__ volatile("tilerelease"); }

  template <int tile>
  void load(const void* from, int64_t pitch) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2"
                     :
                     : "r"(from), "r"(pitch), "i"(tile)
                     : "memory");
  }

  template <int tile>
  void store(void* to, int64_t pitch) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)"
                     :
                     : "r"(to), "r"(pitch), "i"(tile)
                     : "memory");
  }

  // sum += a b: row k of b holds the weights of columns 2k and 2k + 1 of a, interleaved.
  template <int sum, int a, int b>
  void multiply_add() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sum), "i"(a), "i"(b));
  }
#else
  template <int tile>
  void load(const void* from, int64_t pitch) {
    for (int row = 0; row < kTileRows; ++row)
      std::memcpy(data_[tile][row], static_cast<const char*>(from) + row * pitch, kTileBytes);
  }

  template <int tile>
  void store(void* to, int64_t pitch) {
    for (int row = 0; row < kTileRows; ++row)
      std::memcpy(static_cast<char*>(to) + row * pitch, data_[tile][row], kTileBytes);
  }

  template <int sum, int a, int b>
  void multiply_add() {
    for (int row = 0; row < kTileRows; ++row)
      for (int k = 0; k < 16; ++k) {
        const float even = upper(data_[a][row][k] << 16), odd = upper(data_[a][row][k]);
        for (int column = 0; column < 16; ++column) {
          const uint32_t weights = data_[b][k][column];
          float& total = reinterpret_cast<float&>(data_[sum][row][column]);
          total += even * upper(weights << 16) + odd * upper(weights);
        }
      }
  }

 private:
  // The float whose upper half is that of the bits: a bfloat16.
  static float upper(uint32_t bits) {
    bits &= 0xffff0000;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }

  uint32_t data_[8][kTileRows][kTileBytes / 4];
#endif
};

}  // namespace
}  // namespace FASTFCS_ISA
}  // namespace fastfcs
