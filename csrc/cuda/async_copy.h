// Copies from device to shared memory that do not wait and pass no register (cp.async, sm_80 and newer).
// Copies belong to the group that the thread closes next; a thread waits for its own groups, a barrier for the block's.
// Without nvcc the same three names come from the emulation of the tests, which copies as late as is allowed.
#pragma once

#ifdef __CUDACC__

namespace fastfcs::cuda {

// to = inside ? from : 0, kBytes wide; both addresses must be multiples of kBytes. from is not read unless inside.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* to, const void* from, bool inside) {
  static_assert(kBytes == 2 || kBytes == 4 || kBytes == 8 || kBytes == 16);
  if constexpr (kBytes == 2) {  // there is no such cp.async
    *static_cast<unsigned short*>(to) = inside ? *static_cast<const unsigned short*>(from) : 0;
  } else {
    const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
    const int read = inside ? kBytes : 0;  // the rest is filled with zeros
    if constexpr (kBytes == 16)
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(read) : "memory");
    else
      asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from), "n"(kBytes), "r"(read)
                   : "memory");
  }
}

__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all groups of this thread but the kPending newest have arrived.
template <int kPending>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace fastfcs::cuda

#else
#include "emulated_copy.h"
#endif
