// The 3x3 convolution in float32 on the CPU: by its definition, by Winograd's algorithm, or in
// tiles of bfloat16.
#include <algorithm>
#include <optional>
#include <vector>

#include <torch/csrc/stable/library.h>

#include "../checks.h"
#include "../tensors.h"
#include "convolution.h"
#include "direct_convolution_rows.h"
#include "isa.h"
#include "parallel.h"
#include "tile_convolution_rows.h"
#include "winograd_rows.h"

namespace fastfcs {
namespace {

// The least work that pays for another thread: multiply-adds, and weights to prepare.
constexpr int64_t kGrain = 1 << 20, kWeightGrain = 1 << 16;

// The fewest inputs with which an algorithm is faster than the one before.
constexpr int64_t kWinogradInputs = 32, kTileInputs = 16;

int64_t grain(int64_t least, int64_t work) { return std::max<int64_t>(1, least / work); }

// An algorithm for one convolution. W is the type of its weights.
template <typename W>
struct Algorithm {
  void (*prepare)(const ConvolutionWeight& weight, int64_t first, int64_t last, W* to);
  void (*convolve)(const Convolution<W>& x, int64_t b, int64_t first, int64_t last);
  int64_t panel_elements;
  int64_t parts, part_work;  // of a batch element, and multiply-adds per part
};

template <typename W>
void run(const Algorithm<W>& algorithm, const ConvolutionWeight& weight, const Tensor& x,
         Convolution<W> convolution) {
  constexpr ScalarType type = sizeof(W) == 2 ? ScalarType::BFloat16 : ScalarType::Float;
  const int64_t panels = weight.panels(), size = algorithm.panel_elements;
  const Tensor prepared = new_empty(x, {panels * size}, type);
  W* const weights = static_cast<W*>(prepared.mutable_data_ptr());
  torch::stable::parallel_for(
      0, panels, grain(kWeightGrain, size),
      [&](int64_t first, int64_t last) { algorithm.prepare(weight, first, last, weights); });
  convolution.weights = weights;
  take_parts(x.size(0), algorithm.parts, grain(kGrain, algorithm.part_work),
             [&](int64_t b, int64_t first, int64_t last) {
               algorithm.convolve(convolution, b, first, last);
             });
}

// Writes the convolution, times s(by), to `to`.
void convolve(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
              const PixelRows<const float>& by, float slope, std::optional<bool> tiles,
              const PixelRows<float>& to) {
  const ConvolutionWeight w{
      weight.const_data_ptr<float>(),
      weight.size(0),
      weight.size(1),
      {weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)}};
  std::vector<float> biases(w.panels() * kPanel);
  if (bias)
    for (int64_t o = 0; o < w.outputs; ++o)
      biases[o] = bias->const_data_ptr<float>()[o * bias->stride(0)];
  const Tensor rows = as_pixel_rows(x);
  const PixelRows<const float> from = input_rows<float>(rows);
  const int64_t row_work = 9 * to.width * w.inputs * w.outputs;
  if (tiles.value_or(isa() == Isa::amx && w.inputs >= kTileInputs))
    run<uint16_t>({FASTFCS_FOR_ISA(pack_weights), FASTFCS_FOR_ISA(convolve_rows),
                   tile_panel_elements(w.inputs), to.height, row_work},
                  w, rows, {from, to, nullptr, biases.data(), by, slope});
  else if (w.inputs >= kWinogradInputs)
    run<float>({FASTFCS_FOR_ISA(transform_weights), FASTFCS_FOR_ISA(convolve_cells),
                winograd_panel_elements(w.inputs), cells(to.height, to.width),
                kPositions * w.inputs * w.outputs},
               w, rows, {from, to, nullptr, biases.data(), by, slope});
  else
    run<float>({FASTFCS_FOR_ISA(arrange_weights), FASTFCS_FOR_ISA(convolve_directly),
                direct_panel_elements(w.inputs), to.height, row_work},
               w, rows, {from, to, nullptr, biases.data(), by, slope});
}

Tensor convolution(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                   std::optional<bool> tiles) {
  check_convolution(x, weight, bias ? &*bias : nullptr);
  Tensor result = new_channels_last(x, {x.size(0), weight.size(0), x.size(2) - 2, x.size(3) - 2});
  convolve(x, weight, bias, {}, 1, tiles, pixel_rows<float>(result, result.mutable_data_ptr()));
  return result;
}

Tensor gated_convolution(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                         const std::optional<Tensor>& by, double slope, std::optional<bool> tiles) {
  check_convolution(x, weight, bias ? &*bias : nullptr);
  if (by) check_gates(*by, x, weight);
  check_slope(slope);
  const std::optional<Tensor> gates = by ? std::optional(as_pixel_rows(*by)) : by;
  Tensor result = new_channels_last(x, {x.size(0), weight.size(0), x.size(2), x.size(3)});
  const auto padded = pixel_rows<float>(result, result.mutable_data_ptr());
  convolve(x, weight, bias, gates ? input_rows<float>(*gates) : PixelRows<const float>{},
           static_cast<float>(slope), tiles, padded.inside());
  for (int64_t b = 0; b < x.size(0); ++b)
    for (int64_t y = 0; y < x.size(2) - 2; ++y) pad_row(padded, b, y);
  return result;
}

}  // namespace
}  // namespace fastfcs

STABLE_TORCH_LIBRARY_IMPL(fastfcs, CPU, library) {
  library.impl("convolution", TORCH_BOX(&fastfcs::convolution));
  library.impl("gated_convolution", TORCH_BOX(&fastfcs::gated_convolution));
}
