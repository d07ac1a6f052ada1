// Instruction sets of the inner loops. Each *_rows.cpp is compiled once per instruction set, in a
// namespace of that name. The best set that the CPU supports is used, unless the environment
// variable FASTFCS_ISA names a lower one. The choice is made once, on first use.
#pragma once

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace fastfcs {

enum class Isa { plain, avx2, avx512 };

inline const char* name_of(Isa isa) {
  return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "plain";
}

inline Isa best_isa() {
#ifdef __x86_64__
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2) return avx512 ? Isa::avx512 : Isa::avx2;
#endif
  return Isa::plain;
}

inline Isa choose_isa() {
  const Isa best = best_isa();
  const char* name = std::getenv("FASTFCS_ISA");
  if (!name || !*name) return best;
  for (Isa isa : {Isa::plain, Isa::avx2, Isa::avx512})
    if (isa <= best && std::string(name) == name_of(isa)) return isa;
  throw std::invalid_argument(
      "FASTFCS_ISA must be plain, avx2 or avx512 and no more than this CPU's " +
      std::string(name_of(best)) + ", got " + name);
}

inline Isa isa() {
  static const Isa chosen = choose_isa();
  return chosen;
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
  }

// The function as compiled for the chosen instruction set.
#ifdef __x86_64__
#define FASTFCS_FOR_ISA(...)                                        \
  (::fastfcs::isa() == ::fastfcs::Isa::avx512 ? avx512::__VA_ARGS__ \
   : ::fastfcs::isa() == ::fastfcs::Isa::avx2 ? avx2::__VA_ARGS__   \
                                              : plain::__VA_ARGS__)
#else
#define FASTFCS_FOR_ISA(...) plain::__VA_ARGS__
#endif

}  // namespace fastfcs
