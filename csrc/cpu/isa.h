// Instruction sets of the inner loops. Each *_rows.cpp is compiled once per instruction set, in a
// namespace of that name. The best set that the CPU supports is used, unless the environment
// variable FASTFCS_ISA names a lower one. The choice is made once, on first use.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastfcs {

// amx is avx512 and the tiles of bfloat16.
enum class Isa { plain, avx2, avx512, amx };

inline const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::plain: return "plain";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
    default: return "amx";
  }
}

// Linux gives a process tiles of AMX on request.
inline bool request_tiles() {
#if defined(__x86_64__) && defined(__linux__)
  uint32_t a = 7, b, c = 0, d;
  __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  constexpr uint32_t amx_bf16 = 1u << 22, amx_tile = 1u << 24;
  constexpr int request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return (d & amx_bf16) && (d & amx_tile) && syscall(SYS_arch_prctl, request, tile_data) == 0;
#else
  return false;
#endif
}

inline Isa best_isa() {
#ifdef __x86_64__
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) return request_tiles() ? Isa::amx : Isa::avx512;
  if (avx2) return Isa::avx2;
#endif
  return Isa::plain;
}

inline Isa choose_isa() {
  const Isa best = best_isa();
  const char* name = std::getenv("FASTFCS_ISA");
  if (!name || !*name) return best;
  for (Isa isa : {Isa::plain, Isa::avx2, Isa::avx512, Isa::amx})
    if (isa <= best && std::string(name) == name_of(isa)) return isa;
  throw std::invalid_argument(
      "FASTFCS_ISA must be plain, avx2, avx512 or amx and no more than this CPU's " +
      std::string(name_of(best)) + ", got " + name);
}

inline Isa isa() {
  static const Isa chosen = choose_isa();
  return chosen;
}

// Whether oneDNN's convolutions are faster in bfloat16 than in float32: with AMX, and with
// AVX512-BF16 on AMD, whose dot products have twice the rate of multiply-adds. Intel's without AMX
// have the same rate.
inline bool has_fast_bfloat16() {
#ifdef __x86_64__
  return isa() == Isa::amx || (__builtin_cpu_is("amd") && __builtin_cpu_supports("avx512bf16"));
#else
  return false;
#endif
}

// Repeats declarations in the namespace of every instruction set.
#define FASTFCS_FOR_EACH_ISA(DECLARE) \
  namespace plain {                   \
  DECLARE                             \
  }                                   \
  namespace avx2 {                    \
  DECLARE                             \
  }                                   \
  namespace avx512 {                  \
  DECLARE                             \
  }                                   \
  namespace amx {                     \
  DECLARE                             \
  }

// The function as compiled for the chosen instruction set.
#ifdef __x86_64__
#define FASTFCS_FOR_ISA(...)                                          \
  (::fastfcs::isa() == ::fastfcs::Isa::amx      ? amx::__VA_ARGS__    \
   : ::fastfcs::isa() == ::fastfcs::Isa::avx512 ? avx512::__VA_ARGS__ \
   : ::fastfcs::isa() == ::fastfcs::Isa::avx2   ? avx2::__VA_ARGS__   \
                                                : plain::__VA_ARGS__)
#else
#define FASTFCS_FOR_ISA(...) plain::__VA_ARGS__
#endif

}  // namespace fastfcs
