// The current stream of a device, as torch with CUDA tells it, under the name that ops.cpp gives the function.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstdint>

#include "emulation.h"

extern "C" AOTITorchError emulated_current_cuda_stream(int32_t device_index, void** stream) {
  emulation::events += "stream of " + std::to_string(device_index) + "\n";
  *stream = reinterpret_cast<void*>(std::uintptr_t{4242});
  return AOTI_TORCH_SUCCESS;
}
