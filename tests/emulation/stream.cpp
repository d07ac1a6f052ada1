// A stand-in for torch's function that returns the current stream of a device, under the name that
// ops.cpp gives it.
#include "emulation.h"

extern "C" int32_t emulated_current_cuda_stream(int32_t device_index, void** stream) {
  emulation::events += "stream of " + std::to_string(device_index) + "\n";
  *stream = reinterpret_cast<void*>(uintptr_t{4242});
  return 0;  // no error
}
