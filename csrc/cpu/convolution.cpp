// The 3x3 convolution in float32 on the CPU: by Winograd's algorithm, or in tiles of bfloat16.
#include <algorithm>
#include <optional>
#include <vector>

#include <torch/csrc/stable/library.h>

#include "../checks.h"
#include "../tensors.h"
#include "isa.h"
#include "parallel.h"
#include "tile_convolution_rows.h"
#include "winograd_rows.h"

namespace fastfcs {
namespace {

// The least work that pays for another thread: multiply-adds, and weights to prepare.
constexpr int64_t kGrain = 1 << 20, kWeightGrain = 1 << 16;

int64_t grain(int64_t least, int64_t work) { return std::max<int64_t>(1, least / work); }

void convolve_in_tiles(const Tensor& x, const ConvolutionWeight& weight, const float* bias,
                       Tensor& result) {
  const int64_t blocks = weight.blocks(kBlock), size = block_elements(weight.inputs);
  const Tensor packed = new_empty(x, {blocks * size}, ScalarType::BFloat16);
  uint16_t* const weights = static_cast<uint16_t*>(packed.mutable_data_ptr());
  torch::stable::parallel_for(0, blocks, grain(kWeightGrain, size),
                              [&](int64_t first, int64_t last) {
                                FASTFCS_FOR_ISA(pack_weights)(weight, first, last, weights);
                              });
  const TileConvolution convolution{
      input_rows<float>(x), pixel_rows<float>(result, result.mutable_data_ptr()), weights, bias};
  const int64_t row_work = 9 * result.size(3) * weight.inputs * weight.outputs;
  for_each_part(0, result.size(0), result.size(2), grain(kGrain, row_work),
                [&](int64_t b, int64_t first, int64_t last) {
                  FASTFCS_FOR_ISA(convolve_rows)(convolution, b, first, last);
                });
}

void convolve_in_cells(const Tensor& x, const ConvolutionWeight& weight, const float* bias,
                       Tensor& result) {
  const int64_t panels = weight.blocks(kPanel), size = kPositions * weight.inputs * kPanel;
  const Tensor transformed = new_empty(x, {panels * size}, ScalarType::Float);
  float* const weights = transformed.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, panels, grain(kWeightGrain, size),
                              [&](int64_t first, int64_t last) {
                                FASTFCS_FOR_ISA(transform_weights)(weight, first, last, weights);
                              });
  const WinogradConvolution convolution{
      input_rows<float>(x), pixel_rows<float>(result, result.mutable_data_ptr()), weights, bias};
  for_each_part(0, result.size(0), convolution.cells(),
                grain(kGrain, kPositions * weight.inputs * weight.outputs),
                [&](int64_t b, int64_t first, int64_t last) {
                  FASTFCS_FOR_ISA(convolve_cells)(convolution, b, first, last);
                });
}

Tensor convolution(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                   std::optional<bool> tiles) {
  check_convolution(x, weight, bias ? &*bias : nullptr);
  const ConvolutionWeight w{
      weight.const_data_ptr<float>(),
      weight.size(0),
      weight.size(1),
      {weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)}};
  std::vector<float> biases(w.blocks(kPanel) * kPanel);
  if (bias)
    for (int64_t o = 0; o < w.outputs; ++o)
      biases[o] = bias->const_data_ptr<float>()[o * bias->stride(0)];
  Tensor result = new_channels_last(x, {x.size(0), w.outputs, x.size(2) - 2, x.size(3) - 2});
  if (tiles.value_or(isa() == Isa::amx))
    convolve_in_tiles(as_pixel_rows(x), w, biases.data(), result);
  else
    convolve_in_cells(as_pixel_rows(x), w, biases.data(), result);
  return result;
}

}  // namespace
}  // namespace fastfcs

STABLE_TORCH_LIBRARY_IMPL(fastfcs, CPU, library) {
  library.impl("convolution", TORCH_BOX(&fastfcs::convolution));
}
