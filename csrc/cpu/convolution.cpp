// The 3x3 convolution on the CPU: by its definition, by Winograd's algorithm, or in tiles of
// bfloat16.
#include <algorithm>
#include <optional>
#include <type_traits>
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

// An algorithm for a convolution of T. W is the type of the weights that it prepares.
template <typename T, typename W>
struct Algorithm {
  void (*prepare)(const ConvolutionWeight<T>& weight, int64_t first, int64_t last, W* to);
  void (*convolve)(const Convolution<T>& x, const W* weights, int64_t b, int64_t first,
                   int64_t last);
  int64_t panel_elements;
  int64_t parts, part_work;  // of a batch element, and multiply-adds per part
};

template <typename T, typename W>
void run(const Algorithm<T, W>& algorithm, const ConvolutionWeight<T>& weight,
         const Convolution<T>& convolution, const Tensor& x) {
  constexpr ScalarType type = sizeof(W) == 2 ? ScalarType::BFloat16 : ScalarType::Float;
  const int64_t panels = weight.panels(), size = algorithm.panel_elements;
  const Tensor prepared = new_empty(x, {panels * size}, type);
  W* const weights = static_cast<W*>(prepared.mutable_data_ptr());
  torch::stable::parallel_for(
      0, panels, grain(kWeightGrain, size),
      [&](int64_t first, int64_t last) { algorithm.prepare(weight, first, last, weights); });
  take_parts(x.size(0), algorithm.parts, grain(kGrain, algorithm.part_work),
             [&](int64_t b, int64_t first, int64_t last) {
               algorithm.convolve(convolution, weights, b, first, last);
             });
}

// Writes the convolution, times s(by), to `to`.
template <typename T>
void convolve(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
              const std::optional<Tensor>& by, float slope, std::optional<bool> tiles,
              const PixelRows<T>& to) {
  const ConvolutionWeight<T> w{
      static_cast<const T*>(weight.const_data_ptr()),
      weight.size(0),
      weight.size(1),
      {weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)}};
  std::vector<float> biases(w.panels() * kPanel);
  if (bias)
    for (int64_t o = 0; o < w.outputs; ++o)
      biases[o] = static_cast<const T*>(bias->const_data_ptr())[o * bias->stride(0)];
  const Tensor rows = as_pixel_rows(x);
  const std::optional<Tensor> gates = by ? std::optional(as_pixel_rows(*by)) : by;
  const Convolution<T> convolution{input_rows<T>(rows), to, biases.data(),
                                   gates ? input_rows<T>(*gates) : PixelRows<const T>{}, slope};
  const int64_t row_work = 9 * to.width * w.inputs * w.outputs;
  const Algorithm<T, uint16_t> in_tiles{FASTFCS_FOR_ISA(pack_weights<T>),
                                        FASTFCS_FOR_ISA(convolve_rows<T>),
                                        tile_panel_elements<T>(w.inputs), to.height, row_work};
  if constexpr (std::is_same_v<T, float>) {
    const Algorithm<T, T> directly{FASTFCS_FOR_ISA(arrange_weights),
                                   FASTFCS_FOR_ISA(convolve_directly),
                                   direct_panel_elements(w.inputs), to.height, row_work};
    const Algorithm<T, T> in_cells{FASTFCS_FOR_ISA(transform_weights),
                                   FASTFCS_FOR_ISA(convolve_cells),
                                   winograd_panel_elements(w.inputs), cells(to.height, to.width),
                                   kPositions * w.inputs * w.outputs};
    if (!tiles.value_or(isa() == Isa::amx && w.inputs >= kTileInputs))
      return run(w.inputs >= kWinogradInputs ? in_cells : directly, w, convolution, x);
  }
  run(in_tiles, w, convolution, x);
}

// Calls f(T()) for float32 or bfloat16.
template <typename F>
auto dispatch_convolution(const Tensor& x, F f) {
  if (x.scalar_type() == ScalarType::BFloat16) return f(torch::headeronly::BFloat16());
  return f(float());
}

Tensor convolution(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                   std::optional<bool> tiles) {
  check_convolution(x, weight, bias ? &*bias : nullptr);
  Tensor result = new_channels_last(x, {x.size(0), weight.size(0), x.size(2) - 2, x.size(3) - 2});
  dispatch_convolution(x, [&](auto t) {
    const auto to = pixel_rows<decltype(t)>(result, result.mutable_data_ptr());
    convolve(x, weight, bias, {}, 1, tiles, to);
  });
  return result;
}

Tensor gated_convolution(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                         const std::optional<Tensor>& by, double slope, std::optional<bool> tiles) {
  check_convolution(x, weight, bias ? &*bias : nullptr);
  if (by) check_gates(*by, x, weight);
  check_slope(slope);
  Tensor result = new_channels_last(x, {x.size(0), weight.size(0), x.size(2), x.size(3)});
  dispatch_convolution(x, [&](auto t) {
    const auto padded = pixel_rows<decltype(t)>(result, result.mutable_data_ptr());
    convolve(x, weight, bias, by, static_cast<float>(slope), tiles, padded.inside());
    for (int64_t b = 0; b < x.size(0); ++b)
      for (int64_t y = 0; y < x.size(2) - 2; ++y) pad_row(padded, b, y);
  });
  return result;
}

}  // namespace
}  // namespace fastfcs

STABLE_TORCH_LIBRARY_IMPL(fastfcs, CPU, library) {
  library.impl("convolution", TORCH_BOX(&fastfcs::convolution));
  library.impl("gated_convolution", TORCH_BOX(&fastfcs::gated_convolution));
}
