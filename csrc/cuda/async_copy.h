// Asynchronous copies from device to shared memory that bypass registers (cp.async, sm_80 and
// newer). copy_commit() closes a group of the thread's copies since the last one. A thread can wait
// for its own groups only; the copies of a whole block need a barrier in addition.
//
// Without nvcc, the tests' emulation provides the same three functions. It copies as
// late as CUDA allows.
#pragma once

#ifdef __CUDACC__

namespace fastfcs::cuda {

// Copies kBytes if `inside`, else writes zeros and does not read `from`. Both addresses must be
// multiples of kBytes.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* to, const void* from, bool inside) {
  static_assert(kBytes == 2 || kBytes == 4 || kBytes == 8 || kBytes == 16);
  if constexpr (kBytes == 2) {  // cp.async copies at least four bytes
    *static_cast<unsigned short*>(to) = inside ? *static_cast<const unsigned short*>(from) : 0;
  } else {
    const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
    const int read = inside ? kBytes : 0;  // the hardware fills the rest with zeros
    if constexpr (kBytes == 16)
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
                   "r"(read)
                   : "memory");
    else
      asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from),
                   "n"(kBytes), "r"(read)
                   : "memory");
  }
}

__device__ __forceinline__ void copy_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until all of this thread's groups but the kPending newest have arrived.
template <int kPending>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace fastfcs::cuda

#else
#include "emulated_copy.h"
#endif
