// Runs CUDA kernels on the CPU. Each thread of a block is a fiber, and blocks run one after
// another.
//
// csrc/cuda/launch.h includes this header if the compiler is not nvcc, so that g++ compiles the
// same kernel sources. The emulation is strict:
//   - Shared memory contains NaN when a block starts. Guard bands around it must not change.
//   - Every thread in the scope of a barrier must reach it, at the same line. A shuffle is a
//   barrier
//     of its warp: all 32 lanes take part.
//   - Threads and blocks run in several orders (`order`). Results that differ reveal a race.
//   - An asynchronous copy is executed as late as CUDA allows in one order and at once in another.
//   - Misaligned accesses, overflows of signed integers (both detected by the compiler's
//   sanitizers)
//     and accesses to protected memory end the launch with an error.
#pragma once

#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
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
  size_t shared_per_multiprocessor, shared_per_block;
};
}  // namespace fastfcs::cuda

namespace emulation {

enum class Scope { none, warp, block };

// In the first two orders, any two threads and any two blocks run in opposite orders.
enum class Order { forward, reversed, shuffled };

// An asynchronous copy that has not been executed yet.
struct Copy {
  void* to;
  const void* from;
  size_t bytes;
  bool inside;
  int group;
};

// A fiber starts by setcontext and continues by longjmp. Unlike swapcontext, longjmp makes no
// system call.
struct Fiber {
  ucontext_t beginning;
  jmp_buf place;
  bool begun = false;
  std::vector<char> stack = std::vector<char>(64 * 1024);
  Scope waits = Scope::none;
  int line = 0;
  bool done = false;
  // The lane's values in shuffles. Two slots alternate, because a lane may be one shuffle ahead.
  double shown[2] = {};
  int shuffles = 0;
  std::deque<Copy> copies;  // oldest first
  int committed = 0;        // number of closed groups of copies
};

inline constexpr size_t kGuard = 256;
inline constexpr int kWarp = 32;
inline Order order = Order::forward;
inline fastfcs::cuda::Device device{132, 228 * 1024, 227 * 1024};
inline int64_t gram_blocks = 1584;
inline std::vector<Fiber> fibers;
inline jmp_buf scheduler;
inline int current = 0;
inline bool running = false;  // whether a fiber is running
inline std::function<void()> body;
inline std::string error;
inline unsigned char* shared = nullptr;
inline std::string events;  // launches and their streams, one per line

// The thread or block, of n, that runs as the i-th.
inline int64_t nth(int64_t i, int64_t n) {
  if (order == Order::forward) return i;
  if (order == Order::reversed) return n - 1 - i;
  return (i * (n % 7919 ? 7919 : 7907) + 17) % n;  // the factor is a prime that does not divide n
}

// Ends the launch from within a thread, without unwinding its stack. Called by signal handlers and
// sanitizers.
[[noreturn]] inline void fail(const std::string& message) {
  if (!running) {
    std::fprintf(stderr, "emulation: on the host, %s\n", message.c_str());
    std::abort();
  }
  error = message;
  _longjmp(scheduler, 1);
}

// During its lifetime, accesses to protected memory call fail().
class ProtectedMemory {
 public:
  ProtectedMemory() {
    const stack_t stack{stack_.data(), 0, stack_.size()};
    sigaltstack(&stack, &stack_before_);
    struct sigaction action{};
    action.sa_sigaction = [](int, siginfo_t*, void*) {
      fail("a thread accessed memory outside its arrays");
    };
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;  // nodefer: the handler does not return
    sigaction(SIGSEGV, &action, &before_);
  }
  ~ProtectedMemory() {
    sigaction(SIGSEGV, &before_, nullptr);
    sigaltstack(&stack_before_, nullptr);
  }

 private:
  std::vector<char> stack_ = std::vector<char>(64 * 1024);
  stack_t stack_before_;
  struct sigaction before_;
};

inline unsigned char* shared_memory() { return shared; }

inline void barrier(Scope scope, int line) {
  Fiber& fiber = fibers[current];
  fiber.waits = scope;
  fiber.line = line;
  if (_setjmp(fiber.place) == 0) _longjmp(scheduler, 1);
}

inline int lane() { return current % kWarp; }

// The value of lane `from` of the warp, or the lane's own value if there is no such lane.
template <typename T>
T shuffle(unsigned mask, T value, int from, int line) {
  static_assert(sizeof(T) <= sizeof(double));
  if (mask != 0xffffffff || blockDim.x % kWarp != 0)
    throw std::runtime_error("a shuffle is not of a whole warp (line " + std::to_string(line) +
                             ")");
  const int slot = fibers[current].shuffles++ % 2;
  std::memcpy(&fibers[current].shown[slot], &value, sizeof(T));
  barrier(Scope::warp, line);
  if (from >= 0 && from < kWarp)
    std::memcpy(&value, &fibers[current - lane() + from].shown[slot], sizeof(T));
  return value;
}

inline void perform(const Copy& copy) {
  if (copy.inside)
    std::memcpy(copy.to, copy.from, copy.bytes);
  else
    std::memset(copy.to, 0, copy.bytes);
}

// The function of a fiber, which runs the same thread of one block after another.
inline void entry() {
  for (;;) {
    Fiber& fiber = fibers[current];
    try {
      body();
      if (!fiber.copies.empty())
        throw std::runtime_error("a thread ended before its copies arrived");
    } catch (const std::exception& e) {
      error = e.what();
    }
    fiber.done = true;
    if (_setjmp(fiber.place) == 0) _longjmp(scheduler, 1);
  }
}

inline void resume(int thread) {
  Fiber& fiber = fibers[thread];
  current = thread;
  threadIdx.x = static_cast<unsigned>(thread);
  fiber.waits = Scope::none;
  running = true;
  if (_setjmp(scheduler) == 0) {
    if (fiber.begun) _longjmp(fiber.place, 1);
    fiber.begun = true;
    getcontext(&fiber.beginning);
    fiber.beginning.uc_stack.ss_sp = fiber.stack.data();
    fiber.beginning.uc_stack.ss_size = fiber.stack.size();
    fiber.beginning.uc_link = nullptr;
    makecontext(&fiber.beginning, entry, 0);
    setcontext(&fiber.beginning);
  }
  running = false;
  if (!error.empty()) throw std::runtime_error(error);
}

// Whether all threads [first, last) have ended. Throws unless they all have or all wait at the same
// barrier.
inline bool ended(int first, int last) {
  const Fiber& one = fibers[first];
  for (int t = first; t < last; ++t) {
    const Fiber& f = fibers[t];
    if (f.done != one.done || f.waits != one.waits ||
        (!f.done && (f.line != one.line || (f.waits == Scope::warp && f.shuffles != one.shuffles))))
      throw std::runtime_error("a barrier was not reached by all threads (line " +
                               std::to_string(std::max(one.line, f.line)) + ")");
  }
  return one.done;
}

// One round: every thread runs to its next block-wide barrier, or to its end.
inline void run_round(int threads) {
  const int warps = (threads + kWarp - 1) / kWarp;
  for (int w = 0; w < warps; ++w) {
    const int first = static_cast<int>(nth(w, warps)) * kWarp;
    const int last = std::min(first + kWarp, threads);
    do {
      for (int t = 0; t < last - first; ++t) resume(first + static_cast<int>(nth(t, last - first)));
    } while (!ended(first, last) && fibers[first].waits == Scope::warp);
  }
}

inline void run_block(int threads) {
  for (int t = 0; t < threads; ++t) {
    Fiber& fiber = fibers[t];
    fiber.waits = Scope::none;
    fiber.done = false;
    fiber.shuffles = fiber.committed = 0;
  }
  do run_round(threads);
  while (!ended(0, threads));
}

// If `edges` is positive, only that many blocks run at the beginning, in the middle and at the end
// of a grid. A test with more than 2^31 elements has no time for more.
inline int64_t edges = 0;

inline std::vector<int64_t> chosen_blocks(int64_t blocks) {
  std::vector<int64_t> chosen;
  for (int64_t part = 0; part < 3; ++part) {
    const int64_t first = part * (blocks - edges) / 2;
    for (int64_t b = first; b < first + edges; ++b) chosen.push_back(b);
  }
  return chosen;
}

inline void run_grid(int64_t blocks, int threads, size_t shared_bytes) {
  if (blocks < 1 || blocks > 2147483647 || threads < 1 || threads > 1024 ||
      shared_bytes > 227 * 1024)
    throw std::runtime_error("a launch is beyond CUDA's limits");
  error.clear();
  if (fibers.size() < static_cast<size_t>(threads)) fibers = std::vector<Fiber>(threads);
  const size_t bytes = shared_bytes + 2 * kGuard;
  unsigned char* memory = new (std::align_val_t(kGuard)) unsigned char[bytes];
  struct Free {
    unsigned char* p;
    ~Free() { operator delete[](p, std::align_val_t(kGuard)); }
  } free{memory};
  const ProtectedMemory protection;
  shared = memory + kGuard;
  blockDim = {static_cast<unsigned>(threads), 1, 1};
  gridDim = {static_cast<unsigned>(blocks), 1, 1};
  const auto run = [&](int64_t block) {
    blockIdx.x = static_cast<unsigned>(block);
    std::memset(memory, 0xff, bytes);  // 0xff...: NaN in every floating-point type
    run_block(threads);
    const auto intact = [](unsigned char byte) { return byte == 0xff; };
    if (!std::all_of(memory, shared, intact) ||
        !std::all_of(shared + shared_bytes, memory + bytes, intact))
      throw std::runtime_error("a kernel wrote outside its shared memory");
  };
  try {
    if (edges > 0 && blocks > 3 * edges)
      for (const int64_t block : chosen_blocks(blocks)) run(block);
    else
      for (int64_t b = 0; b < blocks; ++b) run(nth(b, blocks));
  } catch (...) {
    fibers.clear();  // they are in the middle of their threads
    throw;
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
void launch(const char* name, void (*kernel)(P...), int64_t blocks, int threads,
            size_t shared_bytes, Stream stream, A... args) {
  emulation::events +=
      std::string(name) + " on " + std::to_string(reinterpret_cast<uintptr_t>(stream)) + "\n";
  emulation::body = [=] { kernel(args...); };
  try {
    emulation::run_grid(blocks, threads, shared_bytes);
  } catch (const std::exception& e) {
    throw std::runtime_error(std::string(name) + ": " + e.what());
  }
}

}  // namespace fastfcs::cuda
