// Creates tensors by direct calls of the C shim. They cost several microseconds less than the
// dispatched functions of torch/csrc/stable/ops.h.
#pragma once

#include <cstdint>
#include <vector>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace fastfcs {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Tensor as_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// Requests huge pages for newly allocated memory: one page fault then replaces 512. For results of
// many megabytes the page faults cost more than the computation. A system without huge pages
// ignores the request.
inline void use_huge_pages(void* memory, int64_t bytes) {
#ifdef __linux__
  constexpr uintptr_t page = 2 << 20;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(memory) + page - 1) / page * page;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(memory) + bytes) / page * page;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

// A contiguous, uninitialised tensor on the device of `like`.
inline Tensor new_empty(const Tensor& like, const std::vector<int64_t>& shape, ScalarType dtype) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t d = shape.size() - 1; d > 0; --d)
    strides[d - 1] = strides[d] * (shape[d] > 1 ? shape[d] : 1);
  const int32_t type = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  int32_t device;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(shape.size()), shape.data(),
                                                  strides.data(), type, device,
                                                  like.get_device_index(), &handle));
  Tensor tensor(handle);
  if (tensor.is_cpu())
    use_huge_pages(tensor.mutable_data_ptr(), tensor.numel() * tensor.element_size());
  return tensor;
}

}  // namespace fastfcs
