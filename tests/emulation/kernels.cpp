// The kernels as C functions (feature_functions.h), and the emulation's settings and trial kernels.
// tests/emulated.py compiles this file and the .cu files with a C++ compiler and calls them through
// ctypes.
#include <map>
#include <string>
#include <utility>

#include "../../csrc/cuda/async_copy.h"
#include "feature_functions.h"

namespace {

// Deliberately faulty kernels, which the emulation must catch. They run in four blocks of 64
// threads; `to` and `from` have 64 elements.
void divergent_barrier(float*, const float*) {
  if (threadIdx.x < 40) __syncthreads();
}

void divergent_shuffle(float* to, const float*) {
  if (threadIdx.x % 2) to[threadIdx.x] = __shfl_down_sync(0xffffffff, 1.0f, 1);
}

void beyond_shared(float*, const float*) { shared_memory<float>()[threadIdx.x + 1] = 0; }

void writes_beyond(float* to, const float*) { to[threadIdx.x + 1] = 0; }

void reads_before(float* to, const float* from) { to[threadIdx.x] = (from - 1)[threadIdx.x]; }

void misaligned_vector(float* to, const float* from) {
  using Four = Vector<float, 4>;
  *reinterpret_cast<Four*>(to + threadIdx.x % 4) = *reinterpret_cast<const Four*>(from);
}

void misaligned_copy(float*, const float* from) {
  copy_async<8>(shared_memory<float>(), from + 1, true);
}

void copy_not_awaited(float*, const float* from) {
  copy_async<4>(shared_memory<float>() + threadIdx.x, from, true);
}

void overflowing_offset(float* to, const float*) {
  const int pixels = 1 << 30;
  to[threadIdx.x] = static_cast<float>(pixels * static_cast<int>(threadIdx.x));
}

void unset_shared(float* to, const float*) {
  to[threadIdx.x] = shared_memory<float>()[threadIdx.x];
}

void missing_barrier(float* to, const float*) {
  float* const shared = shared_memory<float>();
  shared[threadIdx.x] = static_cast<float>(threadIdx.x);
  to[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}

void missing_wait(float* to, const float* from) {
  float* const own = shared_memory<float>() + threadIdx.x;
  copy_async<4>(own, from + threadIdx.x, true);
  copy_commit();
  copy_wait<1>();
  to[threadIdx.x] = *own;
  copy_wait<0>();
}

void early_copy(float* to, const float* from) {
  float* const shared = shared_memory<float>();
  shared[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncthreads();
  copy_async<4>(shared + threadIdx.x, from + threadIdx.x,
                true);  // before all threads have read the old values
  to[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
  copy_commit();
  copy_wait<0>();
}

void dependent_blocks(float* to, const float*) {
  if (threadIdx.x == 0) to[blockIdx.x] = blockIdx.x ? to[blockIdx.x - 1] + 1 : 0;
}

// A correct kernel. Its result has three base-100 digits: the numbers of the threads one lane
// below, two lanes above, and in lane 5.
void shuffles(float* to, const float*) {
  const int thread = static_cast<int>(threadIdx.x);
  const int up = __shfl_up_sync(0xffffffff, thread, 1),
            down = __shfl_down_sync(0xffffffff, thread, 2);
  to[threadIdx.x] =
      static_cast<float>(up + 100 * down + 10000 * __shfl_sync(0xffffffff, thread, 5));
}

}  // namespace

extern "C" {

void set_gram_blocks(long blocks) { emulation::gram_blocks = blocks; }

void set_device(long multiprocessors, long shared_per_multiprocessor, long shared_per_block) {
  emulation::device = {static_cast<int>(multiprocessors),
                       static_cast<size_t>(shared_per_multiprocessor),
                       static_cast<size_t>(shared_per_block)};
}

void set_order(long order) { emulation::order = static_cast<emulation::Order>(order); }

void set_edges(long edges) { emulation::edges = edges; }

// The launches since the last call, one per line.
const char* take_events() {
  static std::string taken;
  taken = std::exchange(emulation::events, {});
  return taken.c_str();
}

const char* run_trial(const char* name, float* to, const float* from) {
#define TRIAL(kernel) \
  {                   \
    #kernel, kernel   \
  }
  const std::map<std::string, void (*)(float*, const float*)> kernels{
      TRIAL(divergent_barrier), TRIAL(divergent_shuffle), TRIAL(beyond_shared),
      TRIAL(writes_beyond),     TRIAL(reads_before),      TRIAL(misaligned_vector),
      TRIAL(misaligned_copy),   TRIAL(copy_not_awaited),  TRIAL(overflowing_offset),
      TRIAL(unset_shared),      TRIAL(missing_barrier),   TRIAL(missing_wait),
      TRIAL(early_copy),        TRIAL(dependent_blocks),  TRIAL(shuffles)};
  return guarded(
      [&] { launch(name, kernels.at(name), 4, 64, 64 * sizeof(float), nullptr, to, from); });
}

}  // extern "C"
