// split_convolution on the CPU: in tiles of AMX, which other instruction sets emulate.
#include <algorithm>
#include <optional>
#include <vector>

#include <torch/csrc/stable/library.h>

#include "../checks.h"
#include "../tensors.h"
#include "isa.h"
#include "parallel.h"
#include "split_convolution_rows.h"

namespace fastfcs {
namespace {

constexpr int64_t kGrain = 1 << 20;  // multiply-adds: the least work that pays for another thread

Tensor split_convolution(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                         int64_t parts) {
  check_split_convolution(x, weight, bias ? &*bias : nullptr, parts);
  const Tensor from = as_pixel_rows(x);
  const SplitWeight w{weight.const_data_ptr<float>(),
                      weight.size(0),
                      weight.size(1),
                      {weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)},
                      parts};
  std::vector<float> biases(w.blocks() * kBlock);
  if (bias)
    for (int64_t o = 0; o < w.outputs; ++o)
      biases[o] = bias->const_data_ptr<float>()[o * bias->stride(0)];

  const Tensor packed = new_empty(x, {w.blocks() * w.block_elements()}, ScalarType::BFloat16);
  uint16_t* const to = static_cast<uint16_t*>(packed.mutable_data_ptr());
  torch::stable::parallel_for(
      0, w.blocks(), std::max<int64_t>(1, (kGrain >> 4) / w.block_elements()),
      [&](int64_t first, int64_t last) { FASTFCS_FOR_ISA(pack_weights)(w, first, last, to); });

  const int64_t height = x.size(2) - 2, width = x.size(3) - 2;
  Tensor result = new_channels_last(x, {x.size(0), w.outputs, height, width});
  const SplitConvolution convolution{input_rows<float>(from), w, to, biases.data(),
                                     pixel_rows<float>(result, result.mutable_data_ptr())};
  const int64_t row_work = 9 * width * w.inputs * w.outputs;
  for_each_part(0, x.size(0), height, std::max<int64_t>(1, kGrain / row_work),
                [&](int64_t b, int64_t first, int64_t last) {
                  FASTFCS_FOR_ISA(convolve_rows)(convolution, b, first, last);
                });
  return result;
}

}  // namespace
}  // namespace fastfcs

STABLE_TORCH_LIBRARY_IMPL(fastfcs, CPU, library) {
  library.impl("split_convolution", TORCH_BOX(&fastfcs::split_convolution));
}
