// Emulates csrc/cuda/async_copy.h. Nothing arrives before it is waited for, so a missing wait shows as NaN;
// a misaligned copy, which would trap on a GPU, throws.
#pragma once

#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <stdexcept>
#include <vector>

#include "emulation.h"

namespace emulation {

struct Copy {
  void* to;
  const void* from;
  int bytes;
  bool inside;
};

using Group = std::vector<Copy>;

// Of one thread, oldest first; the last one is open.
inline std::deque<Group>& groups() {
  static std::map<unsigned, std::deque<Group>> all;
  auto& own = all[threadIdx.x];
  if (own.empty()) own.emplace_back();
  return own;
}

inline void perform(const Copy& copy) {
  if (copy.inside)
    std::memcpy(copy.to, copy.from, copy.bytes);
  else
    std::memset(copy.to, 0, copy.bytes);
}

}  // namespace emulation

namespace fastfcs::cuda {

template <int kBytes>
void copy_async(void* to, const void* from, bool inside) {
  if (reinterpret_cast<std::uintptr_t>(to) % kBytes || reinterpret_cast<std::uintptr_t>(from) % kBytes)
    throw std::runtime_error("an asynchronous copy is misaligned");
  const emulation::Copy copy{to, from, kBytes, inside};
  if (kBytes == 2)
    emulation::perform(copy);
  else
    emulation::groups().back().push_back(copy);
}

inline void copy_commit() { emulation::groups().emplace_back(); }

template <int kPending>
void copy_wait() {
  auto& groups = emulation::groups();
  for (; groups.size() > kPending + 1; groups.pop_front())
    for (const auto& copy : groups.front()) emulation::perform(copy);
}

}  // namespace fastfcs::cuda
