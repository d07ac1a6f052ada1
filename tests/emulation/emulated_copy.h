// Emulates csrc/cuda/async_copy.h. A copy happens when it is waited for, or at once where the order
// of the threads is reversed: a missing wait then shows as NaN, and a copy into memory that others
// still read as a result that depends on the order. A misaligned copy, which would trap on a GPU,
// throws.
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
