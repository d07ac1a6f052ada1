// The kernels as functions.h names them, the emulation's settings and trials of it, for tests/emulated.py, which compiles
// this file and the .cu files with a C++ compiler and calls them through ctypes.
#include "functions.h"

namespace {

// Deliberately wrong kernels: what the emulation is there to catch.
void divergent_barrier(float*) {
  if (threadIdx.x < 40) __syncthreads();
}

void beyond_shared(float*) { shared_memory<float>()[threadIdx.x + 1] = 0; }

void unset_shared(float* out) { out[threadIdx.x] = shared_memory<float>()[threadIdx.x]; }

void divergent_shuffle(float* out) {
  if (threadIdx.x % 2) out[threadIdx.x] = __shfl_down_sync(0xffffffff, 1.0f, 1);
}

void missing_barrier(float* out) {
  float* const shared = shared_memory<float>();
  shared[threadIdx.x] = static_cast<float>(threadIdx.x);
  out[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}

// A right one: a thread's number, of the lane above it, two below it, and the sixth, as digits of base 100.
void shuffles(float* out) {
  const int thread = static_cast<int>(threadIdx.x);
  const int up = __shfl_up_sync(0xffffffff, thread, 1), down = __shfl_down_sync(0xffffffff, thread, 2);
  out[threadIdx.x] = static_cast<float>(up + 100 * down + 10000 * __shfl_sync(0xffffffff, thread, 5));
}

}  // namespace

extern "C" {

void set_reversed(bool reversed) { emulation::reversed = reversed; }

void set_gram_blocks(long blocks) { emulation::gram_blocks = blocks; }

void set_device(long multiprocessors, long shared, long shared_of_block) {
  emulation::device = {static_cast<int>(multiprocessors), static_cast<std::size_t>(shared),
                       static_cast<std::size_t>(shared_of_block)};
}

const char* run_trial(int kind, float* out) {
  void (*const kernels[])(float*) = {divergent_barrier, divergent_shuffle, beyond_shared,
                                     unset_shared,      missing_barrier,   shuffles};
  return guarded([&] { launch("trial", kernels[kind], 1, 64, 64 * sizeof(float), nullptr, out); });
}

}  // extern "C"
