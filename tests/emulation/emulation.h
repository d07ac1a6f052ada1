// Runs CUDA kernels on the CPU: each thread of a block is a fiber, the blocks follow one another.
//
// csrc/cuda/launch.h includes this header where nvcc does not compile, so that g++ builds the very
// kernel sources. The emulation is strict:
//   - shared memory holds NaN when a block starts, and guard bands around it must survive the block;
//   - a barrier must be reached, at the same line, by every thread that it concerns, and a shuffle
//     is a barrier of its warp: all 32 lanes take part;
//   - the threads of a block run in either order (`reversed`): results that differ show a race.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __syncthreads() ::emulation::barrier(::emulation::Scope::block, __LINE__)
#define __syncwarp() ::emulation::barrier(::emulation::Scope::warp, __LINE__)
#define __shfl_sync(mask, value, lane) \
  ::emulation::shuffle(mask, value, (lane) % ::emulation::kWarp, __LINE__)
#define __shfl_up_sync(mask, value, delta) \
  ::emulation::shuffle(mask, value, ::emulation::lane() - static_cast<int>(delta), __LINE__)
#define __shfl_down_sync(mask, value, delta) \
  ::emulation::shuffle(mask, value, ::emulation::lane() + static_cast<int>(delta), __LINE__)

using std::max;
using std::min;

struct Index3 {
  unsigned x = 0, y = 0, z = 0;
};
inline Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace fastfcs::cuda {
struct Device {
  int multiprocessors;
  std::size_t shared, shared_of_block;
};
}  // namespace fastfcs::cuda

namespace emulation {

enum class Scope { none, warp, block };

// A fiber begins by setcontext and goes on by longjmp, which, unlike swapcontext, makes no system call.
struct Fiber {
  ucontext_t beginning;
  jmp_buf place;
  bool begun = false;
  std::vector<char> stack = std::vector<char>(64 * 1024);
  Scope waits = Scope::none;
  int line = 0;
  bool done = false;
  // What the lane shows the others in a shuffle, in two places by turns: it may be one shuffle ahead.
  double shown[2] = {};
  int shuffles = 0;
};

inline constexpr std::size_t kGuard = 256;
inline constexpr int kWarp = 32;
inline bool reversed = false;
inline fastfcs::cuda::Device device{132, 228 * 1024, 227 * 1024};
inline std::int64_t gram_blocks = 1584;
inline std::vector<Fiber> fibers;
inline jmp_buf scheduler;
inline int current = 0;
inline std::function<void()> body;
inline std::string error;
inline unsigned char* shared = nullptr;

inline unsigned char* shared_memory() { return shared; }

inline void barrier(Scope scope, int line) {
  Fiber& fiber = fibers[current];
  fiber.waits = scope;
  fiber.line = line;
  if (_setjmp(fiber.place) == 0) _longjmp(scheduler, 1);
}

inline int lane() { return current % kWarp; }

// The value that lane `from` of the warp shows, or the lane's own where there is no such lane.
template <typename T>
T shuffle(unsigned mask, T value, int from, int line) {
  static_assert(sizeof(T) <= sizeof(double));
  if (mask != 0xffffffff || blockDim.x % kWarp != 0)
    throw std::runtime_error("a shuffle is not of a whole warp (line " + std::to_string(line) + ")");
  const int turn = fibers[current].shuffles++ % 2;
  std::memcpy(&fibers[current].shown[turn], &value, sizeof(T));
  barrier(Scope::warp, line);
  if (from >= 0 && from < kWarp)
    std::memcpy(&value, &fibers[current - lane() + from].shown[turn], sizeof(T));
  return value;
}

inline void entry() {
  try {
    body();
  } catch (const std::exception& e) {
    error = e.what();
  }
  fibers[current].done = true;
  _longjmp(scheduler, 1);
}

inline void resume(int thread) {
  current = thread;
  threadIdx.x = static_cast<unsigned>(thread);
  fibers[thread].waits = Scope::none;
  if (_setjmp(scheduler) == 0) {
    if (fibers[thread].begun) _longjmp(fibers[thread].place, 1);
    fibers[thread].begun = true;
    setcontext(&fibers[thread].beginning);
  }
  if (!error.empty()) throw std::runtime_error(error);
}

// Whether all of [first, last) ended; otherwise they must all wait at one and the same barrier.
inline bool ended(int first, int last) {
  const Fiber& one = fibers[first];
  for (int t = first; t < last; ++t) {
    const Fiber& f = fibers[t];
    if (f.done != one.done || f.waits != one.waits ||
        (!f.done && (f.line != one.line ||
                     (f.waits == Scope::warp && f.shuffles != one.shuffles))))
      throw std::runtime_error("a barrier was not reached by all threads (line " +
                               std::to_string(std::max(one.line, f.line)) + ")");
  }
  return one.done;
}

// One round: every thread runs to its next block-wide barrier, or to its end.
inline void run_round(int threads) {
  const int warps = (threads + kWarp - 1) / kWarp;
  for (int w = 0; w < warps; ++w) {
    const int first = (reversed ? warps - 1 - w : w) * kWarp;
    const int last = std::min(first + kWarp, threads);
    do {
      for (int t = first; t < last; ++t) resume(reversed ? first + last - 1 - t : t);
    } while (!ended(first, last) && fibers[first].waits == Scope::warp);
  }
}

inline void run_block(int threads) {
  for (int t = 0; t < threads; ++t) {
    Fiber& fiber = fibers[t];
    fiber.waits = Scope::none;
    fiber.done = false;
    fiber.shuffles = 0;
    fiber.begun = false;
    getcontext(&fiber.beginning);
    fiber.beginning.uc_stack.ss_sp = fiber.stack.data();
    fiber.beginning.uc_stack.ss_size = fiber.stack.size();
    fiber.beginning.uc_link = nullptr;
    makecontext(&fiber.beginning, entry, 0);
  }
  do run_round(threads);
  while (!ended(0, threads));
}

inline void run_grid(std::int64_t blocks, int threads, std::size_t shared_bytes) {
  if (blocks < 1 || blocks > 2147483647 || threads < 1 || threads > 1024 ||
      shared_bytes > 227 * 1024)
    throw std::runtime_error("a launch is beyond CUDA's limits");
  error.clear();
  if (fibers.size() < static_cast<std::size_t>(threads)) fibers = std::vector<Fiber>(threads);
  const std::size_t bytes = shared_bytes + 2 * kGuard;
  unsigned char* memory = new (std::align_val_t(kGuard)) unsigned char[bytes];
  struct Free {
    unsigned char* p;
    ~Free() { operator delete[](p, std::align_val_t(kGuard)); }
  } free{memory};
  shared = memory + kGuard;
  blockDim = {static_cast<unsigned>(threads), 1, 1};
  gridDim = {static_cast<unsigned>(blocks), 1, 1};
  for (std::int64_t b = 0; b < blocks; ++b) {
    blockIdx.x = static_cast<unsigned>(b);
    std::memset(memory, 0xff, bytes);  // 0xff...: NaN in every floating-point type
    run_block(threads);
    const auto intact = [](unsigned char byte) { return byte == 0xff; };
    if (!std::all_of(memory, shared, intact) ||
        !std::all_of(shared + shared_bytes, memory + bytes, intact))
      throw std::runtime_error("a kernel wrote outside its shared memory");
  }
}

}  // namespace emulation

namespace fastfcs::cuda {

using Stream = void*;

inline Device current_device() { return emulation::device; }

template <typename T>
T* shared_memory() {
  return reinterpret_cast<T*>(emulation::shared_memory());
}

template <typename... P, typename... A>
void launch(const char* name, void (*kernel)(P...), std::int64_t blocks, int threads,
            std::size_t shared_bytes, Stream, A... args) {
  emulation::body = [=] { kernel(args...); };
  try {
    emulation::run_grid(blocks, threads, shared_bytes);
  } catch (const std::exception& e) {
    throw std::runtime_error(std::string(name) + ": " + e.what());
  }
}

}  // namespace fastfcs::cuda
