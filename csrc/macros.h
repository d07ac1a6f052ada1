// Macros for code that both g++ (or clang++) and nvcc compile.
#pragma once

// A function for host and device. Without nvcc it is static: objects compiled for different
// instruction sets must not share one copy.
#ifdef __CUDACC__
#define FASTFCS_HD __host__ __device__ inline
#else
#define FASTFCS_HD static inline
#endif

// Fully unrolls the following loop, so that arrays indexed by its counter stay in registers.
#if defined(__GNUC__) && !defined(__CUDACC__)
#define FASTFCS_UNROLL _Pragma("GCC unroll 9")
#else
#define FASTFCS_UNROLL _Pragma("unroll")
#endif
