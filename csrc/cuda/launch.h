// What the kernels need of the machine: a stream, dynamic shared memory, a launch, and what the device has.
// Without nvcc the same names come from the emulation header of the tests.
#pragma once

#ifdef __CUDACC__

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace fastfcs::cuda {

using Stream = cudaStream_t;

template <typename T>
__device__ __forceinline__ T* shared_memory() {
  extern __shared__ __align__(32) unsigned char fastfcs_shared[];
  return reinterpret_cast<T*>(fastfcs_shared);
}

// The grid is one-dimensional, so only its 2^31 - 1 blocks limit batch, channels and size.
template <typename... P, typename... A>
void launch(const char* name, void (*kernel)(P...), std::int64_t blocks, int threads,
            std::size_t shared_bytes, Stream stream, A... args) {
  if (blocks > 2147483647)
    throw std::runtime_error(std::string("fastfcs: the tensors are too large for one launch of ") +
                             name);
  if (shared_bytes > 48 * 1024)  // what every kernel may have; more must be asked for
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, stream>>>(args...);
  if (const cudaError_t status = cudaGetLastError(); status != cudaSuccess)
    throw std::runtime_error(std::string("fastfcs: the CUDA kernel ") + name +
                             " could not start: " + cudaGetErrorString(status));
}

struct Device {
  int multiprocessors;
  std::size_t shared, shared_of_block;  // bytes of shared memory of a multiprocessor, and the most that a block may have
};

inline Device current_device() {
  int device = 0, multiprocessors = 0, shared = 0, shared_of_block = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
  cudaDeviceGetAttribute(&shared_of_block, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return {multiprocessors, static_cast<std::size_t>(shared), static_cast<std::size_t>(shared_of_block)};
}

}  // namespace fastfcs::cuda

#else
#include "emulation.h"
#endif
