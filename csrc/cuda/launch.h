// The part of the CUDA runtime that the kernels use: a stream, dynamic shared memory, launches and
// device properties. Without nvcc, the tests' emulation provides the same names.
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

// The grid is one-dimensional: the only limit on batch, channels and pixels is its 2^31 - 1 blocks.
template <typename... P, typename... A>
void launch(const char* name, void (*kernel)(P...), int64_t blocks, int threads,
            size_t shared_bytes, Stream stream, A... args) {
  if (blocks > 2147483647)
    throw std::runtime_error(std::string("fastfcs: the tensors are too large for one launch of ") +
                             name);
  if (shared_bytes > 48 * 1024)  // more than the default limit requires an opt-in
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         static_cast<int>(shared_bytes));
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, stream>>>(args...);
  if (const cudaError_t status = cudaGetLastError(); status != cudaSuccess)
    throw std::runtime_error(std::string("fastfcs: the CUDA kernel ") + name +
                             " could not start: " + cudaGetErrorString(status));
}

struct Device {
  int multiprocessors;
  size_t shared_per_multiprocessor, shared_per_block;  // shared memory in bytes; per block at most
};

inline Device current_device() {
  int device = 0, multiprocessors = 0, per_multiprocessor = 0, per_block = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&per_multiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
  cudaDeviceGetAttribute(&per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return {multiprocessors, static_cast<size_t>(per_multiprocessor), static_cast<size_t>(per_block)};
}

}  // namespace fastfcs::cuda

#else
#include "emulation.h"
#endif
