// csrc/cuda/ops.cu as operators on CPU tensors, in a namespace of their own. Stand-ins replace the
// parts that need a GPU: the device guard here, and the current stream in stream.cpp, which is not
// linked to imitate a torch without CUDA.
#define aoti_torch_create_device_guard emulated_create_device_guard
#define aoti_torch_delete_device_guard emulated_delete_device_guard
#define aoti_torch_get_current_cuda_stream emulated_current_cuda_stream

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <string_view>

#include "emulation.h"

extern "C" AOTITorchError emulated_create_device_guard(int32_t device_index,
                                                       DeviceGuardHandle* guard) {
  emulation::events += "guard of " + std::to_string(device_index) + "\n";
  *guard = reinterpret_cast<DeviceGuardHandle>(&emulation::events);  // any pointer but null
  return AOTI_TORCH_SUCCESS;
}

extern "C" AOTITorchError emulated_delete_device_guard(DeviceGuardHandle) {
  emulation::events += "end of guard\n";
  return AOTI_TORCH_SUCCESS;
}

#undef STABLE_TORCH_LIBRARY
#define STABLE_TORCH_LIBRARY(space, library) \
  static void define(torch::stable::detail::StableLibrary& library)
#include "../../csrc/ops.cpp"

#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(space, key, library)                                      \
  static_assert(std::string_view(#space) == "fastfcs" && std::string_view(#key) == "CUDA"); \
  static void implement(torch::stable::detail::StableLibrary& library)
#include "../../csrc/cuda/ops.cu"

extern "C" void register_operators(const char* space) {
  using torch::stable::detail::StableLibrary;
  static StableLibrary schemas(StableLibrary::Kind::DEF, space, nullptr, __FILE__, __LINE__);
  define(schemas);
  static StableLibrary implementations(StableLibrary::Kind::IMPL, space, "CPU", __FILE__, __LINE__);
  implement(implementations);
}
