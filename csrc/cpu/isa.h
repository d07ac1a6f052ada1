// The instruction set, chosen when the program runs.
#pragma once

namespace fastfcs {

inline bool has_avx2() {
#ifdef __x86_64__
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

}  // namespace fastfcs
