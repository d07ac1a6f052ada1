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

// An uninitialised tensor on the device of `like`.
inline Tensor new_strided(const Tensor& like, const std::vector<int64_t>& shape,
                          const std::vector<int64_t>& strides, ScalarType dtype) {
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

// A contiguous, uninitialised tensor on the device of `like`.
inline Tensor new_empty(const Tensor& like, const std::vector<int64_t>& shape, ScalarType dtype) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t d = shape.size() - 1; d > 0; --d)
    strides[d - 1] = strides[d] * (shape[d] > 1 ? shape[d] : 1);
  return new_strided(like, shape, strides, dtype);
}

// The same of shape (B, C, H, W) in channels_last memory: pixels x channels.
inline Tensor new_channels_last(const Tensor& like, const std::vector<int64_t>& shape) {
  const int64_t c = shape[1], h = shape[2], w = shape[3];
  return new_strided(like, shape, {h * w * c, 1, w * c, c}, like.scalar_type());
}

// Whether the channels of a pixel are contiguous and the pixels of a row adjacent. Rows may lie
// apart, as those of a slice of a padded tensor.
inline bool has_pixel_rows(const Tensor& tensor) {
  const int64_t c = tensor.size(1), h = tensor.size(2), w = tensor.size(3);
  return (c == 1 || tensor.stride(1) == 1) && (w == 1 || tensor.stride(3) == c) &&
         (h == 1 || tensor.stride(2) >= w * c);
}

inline Tensor as_pixel_rows(const Tensor& tensor) {
  if (has_pixel_rows(tensor)) return tensor;
  return torch::stable::contiguous(tensor, torch::headeronly::MemoryFormat::ChannelsLast);
}

}  // namespace fastfcs
