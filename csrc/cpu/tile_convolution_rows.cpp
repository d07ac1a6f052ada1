#include "tile_convolution_rows.h"

#include <type_traits>

#include "aligned.h"
#include "convert.h"
#include "outputs.h"
#include "tiles.h"

namespace fastfcs {
namespace FASTFCS_ISA {
namespace {

constexpr int64_t kPieceBytes = 768 << 10;  // of the parts of input rows, for the L2 cache

// Writes the upper parts of `count` numbers, and `pitch` after them the lower ones.
inline void split(const float* from, int64_t count, uint16_t* to, int64_t pitch) {
  int64_t i = 0;
#ifdef __AVX512BF16__
  for (; i + 16 <= count; i += 16) {
    const __m512 value = _mm512_loadu_ps(from + i);
    const __m256i upper = __m256i(_mm512_cvtneps_pbh(value));
    const __m512 part = __m512(_mm512_slli_epi32(_mm512_cvtepu16_epi32(upper), 16));
    store(to + i, upper);
    store(to + pitch + i, __m256i(_mm512_cvtneps_pbh(_mm512_sub_ps(value, part))));
  }
#endif
  for (; i < count; ++i) {
    to[i] = rounded(from[i]);
    to[pitch + i] = rounded(from[i] - float_of(to[i]));
  }
}

// A bfloat16 number has no lower part.
inline void split(const BFloat16* from, int64_t count, uint16_t* to, int64_t) {
  std::memcpy(to, from, count * sizeof(uint16_t));
}

// Calls f with the constants 0 .. count-1.
template <int count, typename F>
inline void repeat(F f) {
  if constexpr (count > 0) {
    repeat<count - 1>(f);
    f(std::integral_constant<int, count - 1>());
  }
}

// The rows of one call.
template <typename T>
class Rows {
 public:
  Rows(const Convolution<T>& x, const uint16_t* weights, int64_t b, int64_t count)
      : x_(x),
        weights_(weights),
        b_(b),
        inputs_(x.from.channels),
        span_(x.from.width * inputs_),
        blocks_((x.to.channels + kBlock - 1) / kBlock),
        rows_(piece_rows(count)),
        beyond_(kPixelsBeyond * inputs_ + kStep),
        pitch_((rows_ + 2) * span_ + beyond_),
        memory_(kParts<T> * pitch_) {}

  // The rows [first, last) of the result, piece by piece.
  void convolve(int64_t first, int64_t last) {
    for (int64_t top = first; top < last; top += rows_) {
      const int64_t bottom = smaller(last, top + rows_);
      uint16_t* to = memory_.get();
      for (int64_t y = top; y < bottom + 2; ++y, to += span_)
        split(x_.from.row(b_, y), span_, to, pitch_);
      for (int64_t part = 0; part < kParts<T>; ++part)
        std::memset(to + part * pitch_, 0, beyond_ * sizeof(uint16_t));
      // The weights of two blocks serve all pixels of the piece.
      for (int64_t block = 0; block < blocks_; block += 2)
        for (int64_t y = top; y < bottom; ++y)
          for (int64_t left = 0; left < x_.to.width; left += 32) {
            const bool wide = x_.to.width - left > 16, two = blocks_ - block > 1;
            if (wide)
              two ? compute<2, 2>(top, y, left, block) : compute<2, 1>(top, y, left, block);
            else
              two ? compute<1, 2>(top, y, left, block) : compute<1, 1>(top, y, left, block);
          }
    }
  }

 private:
  static constexpr int64_t kPixelsBeyond = 32;  // after the last row, which its last tile reads

  int64_t piece_rows(int64_t count) const {
    const int64_t most = kPieceBytes / (kParts<T> * span_ * int64_t(sizeof(uint16_t))) - 2;
    return smaller(count, most < 1 ? 1 : most);
  }

  // 16 M pixels, starting at `left`, and 16 N outputs, starting at those of `block`.
  template <int M, int N>
  void compute(int64_t top, int64_t y, int64_t left, int64_t block) {
    const uint16_t* const pixels = memory_.get() + (y - top) * span_ + left * inputs_;
    const uint16_t* const weights = weights_ + block * block_elements<T>(inputs_);
    repeat<N>([&](auto n) {
      const float* const bias = x_.bias + (block + n) * kBlock;
      repeat<M>([&](auto m) { tiles_.load<M * n + m>(bias, 0); });
    });
    accumulate<M, N>(pixels, weights);
    repeat<N>([&](auto n) {
      repeat<M>([&](auto m) { store<M * n + m>(y, left + 16 * m, (block + n) * kBlock); });
    });
  }

  // The sums are in the tiles M n + m. Small products are added first.
  template <int M, int N>
  void accumulate(const uint16_t* pixels, const uint16_t* weights) {
    const auto load_pixels = [&](const uint16_t* from) {
      repeat<M>(
          [&](auto m) { tiles_.load<4 + m>(from + m * 16 * inputs_, inputs_ * sizeof(uint16_t)); });
    };
    const auto load_weights = [&](int64_t part) {
      repeat<N>([&](auto n) {
        tiles_.load<6 + n>(weights + part * kTileElements + n * block_elements<T>(inputs_),
                           kTileBytes);
      });
    };
    const auto multiply_add = [&] {
      repeat<N>([&](auto n) {
        repeat<M>([&](auto m) { tiles_.multiply_add<M * n + m, 4 + m, 6 + n>(); });
      });
    };
    const int64_t steps = tile_steps(inputs_);
    for (int64_t row = 0; row < 3; ++row)
      for (int64_t step = 0; step < steps; ++step, weights += kParts<T> * kTileElements) {
        const uint16_t* const from = pixels + row * span_ + step * kStep;
        load_weights(0);
        if constexpr (kParts<T> == 2) {
          load_pixels(from + pitch_);
          multiply_add();
        }
        load_pixels(from);
        multiply_add();
        if constexpr (kParts<T> == 2) {
          load_weights(1);
          multiply_add();
        }
      }
  }

  // Stores those pixels and outputs of a tile that exist, gated.
  template <int tile>
  void store(int64_t y, int64_t left, int64_t output) {
    const int64_t channels = x_.to.channels;
    const int64_t pixels = smaller(16, x_.to.width - left);
    const int64_t outputs = smaller(kBlock, channels - output);
    T* const to = x_.to.row(b_, y) + left * channels + output;
    if constexpr (std::is_same<T, float>::value)
      if (x_.slope == 1 && pixels == 16 && outputs == kBlock)
        return tiles_.store<tile>(to, channels * sizeof(float));
    alignas(64) float sums[16 * kBlock];
    tiles_.store<tile>(sums, kTileBytes);
    const T* const gates = x_.gates(b_, y, left, output);
    for (int64_t pixel = 0; pixel < pixels; ++pixel)
      for (int64_t o = 0; o < outputs; o += kLanes) {
        const T* const by = gates ? gates + pixel * channels + o : nullptr;
        store_gated(to + pixel * channels + o, load<FloatVector>(sums + pixel * kBlock + o), by,
                    x_.slope, smaller(kLanes, outputs - o));
      }
  }

  const Convolution<T>& x_;
  const uint16_t* const weights_;
  const int64_t b_, inputs_, span_, blocks_, rows_, beyond_;
  const int64_t pitch_;  // from the upper parts to the lower ones
  AlignedBuffer<uint16_t> memory_;
  Tiles tiles_;
};

}  // namespace

// A tile holds pairs of weights, those of 16 outputs next to each other.
template <typename T>
void pack_weights(const ConvolutionWeight<T>& weight, int64_t first, int64_t last, uint16_t* to) {
  const int64_t inputs = weight.inputs, count = tile_steps(inputs) * kStep;
  for (int64_t output = first * kPanel; output < last * kPanel; output += kBlock) {
    const int64_t outputs = smaller(kBlock, weight.outputs - output);
    for (int64_t y = 0; y < 3; ++y)
      for (int64_t k = 0; k < count; k += 2) {
        T pairs[2 * kBlock];
        std::memset(pairs, 0, sizeof pairs);
        for (int64_t i = k; i < smaller(k + 2, 3 * inputs); ++i)
          for (int64_t o = 0; o < outputs; ++o)
            pairs[2 * o + i - k] = weight.at(output + o, i % inputs, y, i / inputs);
        uint16_t* const tile = to + output / kBlock * block_elements<T>(inputs) +
                               (y * count / kStep + k / kStep) * kParts<T> * kTileElements;
        split(pairs, 2 * kBlock, tile + k % kStep * kBlock, kTileElements);
      }
  }
}

template <typename T>
void convolve_rows(const Convolution<T>& x, const uint16_t* weights, int64_t b, int64_t first,
                   int64_t last) {
  Rows<T>(x, weights, b, last - first).convolve(first, last);
}

#define FASTFCS_INSTANTIATE(T)                                                          \
  template void pack_weights(const ConvolutionWeight<T>&, int64_t, int64_t, uint16_t*); \
  template void convolve_rows(const Convolution<T>&, const uint16_t*, int64_t, int64_t, int64_t);
FASTFCS_INSTANTIATE(float)
FASTFCS_INSTANTIATE(BFloat16)
#undef FASTFCS_INSTANTIATE

}  // namespace FASTFCS_ISA
}  // namespace fastfcs
