// Emulates csrc/cuda/async_copy.h. A copy is executed when the thread waits for it or, in the
// reversed order of threads, at once. A missing wait then gives NaN, and a copy into memory that
// other threads still read gives results that depend on the order. A misaligned copy, which would
// trap on a GPU, throws.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "emulation.h"

namespace fastfcs::cuda {

template <int kBytes>
void copy_async(void* to, const void* from, bool inside) {
  using emulation::Order;
  if (reinterpret_cast<uintptr_t>(to) % kBytes || reinterpret_cast<uintptr_t>(from) % kBytes)
    throw std::runtime_error("an asynchronous copy is misaligned");
  emulation::Fiber& fiber = emulation::fibers[emulation::current];
  const emulation::Copy copy{to, from, kBytes, inside, fiber.committed};
  const bool odd = emulation::current % 2;
  if (kBytes == 2 || emulation::order == Order::reversed ||
      (emulation::order == Order::shuffled && odd))
    emulation::perform(copy);
  else
    fiber.copies.push_back(copy);
}

inline void copy_commit() { ++emulation::fibers[emulation::current].committed; }

template <int kPending>
void copy_wait() {
  emulation::Fiber& fiber = emulation::fibers[emulation::current];
  for (; !fiber.copies.empty() && fiber.copies.front().group < fiber.committed - kPending;
       fiber.copies.pop_front())
    emulation::perform(fiber.copies.front());
}

}  // namespace fastfcs::cuda
