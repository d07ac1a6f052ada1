#include "direct_convolution_rows.h"

#include "aligned.h"
#include "outputs.h"

namespace fastfcs {
namespace FASTFCS_ISA {
namespace {

using V = FloatVector;

// Pixels whose sums are computed together: one vector of each, and three of weights, fit into the
// registers, 32 of AVX-512 and 16 elsewhere.
constexpr int kPixels = FASTFCS_VECTOR == 64 ? 12 : 10;

// The sums of a vector of outputs at adjacent pixels. An input serves the three pixels that see it
// while it is in a register.
template <int pixels>
inline void compute(const Convolution<float>& x, const float* weights, int64_t b, int64_t y,
                    int64_t left, int64_t output) {
  V total[pixels];
#pragma GCC unroll 12
  for (int i = 0; i < pixels; ++i) total[i] = load<V>(x.bias + output);
  const int64_t inputs = x.from.channels;
  weights += output * 9 * inputs;
  for (int row = 0; row < 3; ++row) {
    const float* from = x.from.row(b, y + row) + left * inputs;
    for (int64_t c = 0; c < inputs; ++c, ++from, weights += 3 * kLanes) {
      const V w[3] = {load<V>(weights), load<V>(weights + kLanes), load<V>(weights + 2 * kLanes)};
#pragma GCC unroll 14
      for (int i = 0; i < pixels + 2; ++i) {
        const float input = from[i * inputs];
        if (i < pixels) total[i] += input * w[0];
        if (i > 0 && i <= pixels) total[i - 1] += input * w[1];
        if (i > 1) total[i - 2] += input * w[2];
      }
    }
  }
  const int64_t channels = x.to.channels, outputs = smaller(kLanes, channels - output);
  float* const to = x.to.row(b, y) + left * channels + output;
  const float* const gates = x.gates(b, y, left, output);
#pragma GCC unroll 12
  for (int i = 0; i < pixels; ++i)
    store_gated(to + i * channels, total[i], gates ? gates + i * channels : nullptr, x.slope,
                outputs);
}

}  // namespace

// A panel holds vectors of outputs: of each, [rows][inputs][columns][lanes].
void arrange_weights(const ConvolutionWeight<float>& weight, int64_t first, int64_t last,
                     float* to) {
  for (int64_t o = first * kPanel; o < last * kPanel; o += kLanes)
    for (int64_t y = 0; y < 3; ++y)
      for (int64_t c = 0; c < weight.inputs; ++c)
        for (int64_t x = 0; x < 3; ++x)
          store(to + (((o / kLanes * 3 + y) * weight.inputs + c) * 3 + x) * kLanes,
                weights_at(weight, o, c, y, x));
}

void convolve_directly(const Convolution<float>& x, const float* weights, int64_t b, int64_t first,
                       int64_t last) {
  const int64_t width = x.to.width;
  for (int64_t y = first; y < last; ++y)
    for (int64_t output = 0; output < x.to.channels; output += kLanes)
      // The last pixels of a row are computed together as well, some of them once more.
      if (width < kPixels)
        for (int64_t left = 0; left < width; ++left) compute<1>(x, weights, b, y, left, output);
      else
        for (int64_t left = 0; left < width; left += kPixels)
          compute<kPixels>(x, weights, b, y, smaller(left, width - kPixels), output);
}

}  // namespace FASTFCS_ISA
}  // namespace fastfcs
