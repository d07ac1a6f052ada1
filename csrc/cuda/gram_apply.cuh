// The second pass of the Gram correction on CUDA, and the gradient of a level: out = f w_f + g w_g,
// features times C x C weights. apply_kernel computes float32 and float64 in the layout
// channels_first, apply_tiles_kernel everything else. Included by gram.cu.
#pragma once

#include <cstdint>
#include <type_traits>

#include "async_copy.h"
#include "kernels.h"
#include "pixel_rows.cuh"
#include "streaming.h"
#include "tile_copy.cuh"
#include "warp_product.h"

namespace fastfcs::cuda {
namespace {

// out_c(p) = sum_k f_k(p) w_f[k][c] + sum_k g_k(p) w_g[k][c]. With `transposed`, w_f is read as its
// transpose. g may be null. Weights and sums are of type A, features of type T.
template <typename T, typename A>
struct ApplyOperands {
  const T *f, *g;      // [B, C, n] or [B, n, C]
  const A *w_f, *w_g;  // [B, C, C]; one w_f for all batch elements if `shared`
  bool transposed, shared;

  __device__ int count() const { return g ? 2 : 1; }
  __device__ const T* features(int term) const { return term ? g : f; }
  __device__ A weight(int term, int64_t batch, int channels, int k, int c) const {
    const bool swap = transposed && !term;
    const A* const from = (term ? w_g : w_f) + (shared ? 0 : batch) * channels * channels;
    return k < channels && c < channels ? from[swap ? c * channels + k : k * channels + c] : A{};
  }
};

// The part of the result that a block computes. Consecutive blocks take the tiles of channels first
// and then the batch elements, so that h is read once from device memory. Pixels come last, in
// reverse order, because L2 still holds the end of h from product_kernel. One cooperative launch
// with a grid-wide barrier would keep no more of h.
struct BlockCoordinates {
  int c0;                     // first channel
  int64_t batch, pixel_tile;  // pixel_tile counts from the end
  __device__ BlockCoordinates(const GramShape& shape, int side) {
    const unsigned tiles = static_cast<unsigned>((shape.channels + side - 1) / side);
    c0 = static_cast<int>(blockIdx.x % tiles) * side;
    batch = blockIdx.x / tiles % shape.batch;
    pixel_tile = blockIdx.x / tiles / shape.batch;
  }
};

// ------------------------------------------- true float32 and float64, channels_first --

// A thread keeps 16 outputs of 16 bytes of pixels in registers. For each k it loads one value per
// pixel and reads 16 weights from shared memory, at the same address in all lanes: five loads for
// 64 multiply-adds. Sixteen k are loaded at once: 8 KB per warp, 96 KB per multiprocessor. The
// kSide / 16 warps with the same pixels share them through the L1 cache.
//
// Traffic per pixel, float32: 4 C bytes of h, from L2 if it holds them, read ceil(C / 32) times
// from L2; 4 C bytes written.
constexpr int kWeightRows = 64;  // k's whose weights are in shared memory at a time
constexpr int kLoadRows = 16;    // k's whose pixels are loaded at a time

template <typename T, int kSide>
constexpr int kBlockPixels = 16 / int(sizeof(T)) * kLanes * kWarps * 16 / kSide;

// If kAligned, rows of h and out begin at multiples of 16 bytes.
template <typename T, int kSide, bool kAligned>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 || !kAligned ? 2 : 3)
    apply_kernel(ApplyOperands<T, T> operands, T* __restrict__ out /* [B, C, n] */,
                 GramShape shape) {
  constexpr int kPixels = 16 / sizeof(T), kOutputs = 16, kGroups = kSide / kOutputs;
  using Pixels = Vector<T, kPixels>;
  T* const weight_tile = shared_memory<T>();  // [k][c]
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int channels = static_cast<int>(shape.channels);
  const BlockCoordinates block(shape, kSide);
  const int c0 = block.c0 + warp % kGroups * kOutputs;
  const int64_t pixel_tiles = (shape.pixels + kBlockPixels<T, kSide> - 1) / kBlockPixels<T, kSide>;
  // A thread's pixels are neighbours. If rows are not aligned, they are 32 apart instead, so that a
  // warp's loads are contiguous.
  constexpr int kStep = kAligned ? 1 : kLanes;
  const int64_t first = (pixel_tiles - 1 - block.pixel_tile) * kBlockPixels<T, kSide> +
                        warp / kGroups * (kPixels * kLanes) + lane * (kAligned ? kPixels : 1);
  const int left = static_cast<int>(min(shape.pixels - first, int64_t{1024}));
  const auto inside = [&](int q) { return q * kStep < left; };
  // Out-of-range pixels are clamped to valid ones for loads and are not stored, so that loads need
  // no condition.
  const int64_t plane = block.batch * channels * shape.pixels;
  const int64_t read = inside(0) ? first : shape.pixels - (kAligned ? kPixels : 1);
  const int last = max(left - 1, 0);

  T sum[kPixels][kOutputs] = {};
  for (int term = 0; term < operands.count(); ++term) {
    for (int k0 = 0; k0 < channels; k0 += kWeightRows) {
      const int depth = (min(kWeightRows, channels - k0) + kLoadRows - 1) / kLoadRows * kLoadRows;
      __syncthreads();
      for (int i = threadIdx.x; i < depth * kSide; i += kThreads)
        weight_tile[i] =
            operands.weight(term, block.batch, channels, k0 + i / kSide, block.c0 + i % kSide);
      __syncthreads();
      const T* at = operands.features(term) + plane + k0 * shape.pixels + read;
      const T* weights = weight_tile + warp % kGroups * kOutputs;
#pragma unroll 1
      for (int k = 0; k < depth; k += kLoadRows, weights += kLoadRows * kSide) {
        Pixels value[kLoadRows];
        FASTFCS_UNROLL
        for (int b = 0; b < kLoadRows; ++b) {
          if constexpr (kAligned) {
            value[b] = load_once(reinterpret_cast<const Pixels*>(at));
          } else {
            FASTFCS_UNROLL
            for (int q = 0; q < kPixels; ++q) value[b].element[q] = at[min(q * kStep, last)];
          }
          // Past the last k its row is read again. The weights are zero there.
          if (b < channels - 1 - k0 - k) at += shape.pixels;
        }
        FASTFCS_UNROLL
        for (int b = 0; b < kLoadRows; ++b) {
          FASTFCS_UNROLL
          for (int c = 0; c < kOutputs; c += kPixels) {
            const Pixels weight = *reinterpret_cast<const Pixels*>(weights + b * kSide + c);
            FASTFCS_UNROLL
            for (int v = 0; v < kPixels; ++v) {
              FASTFCS_UNROLL
              for (int q = 0; q < kPixels; ++q)
                sum[q][c + v] += value[b].element[q] * weight.element[v];
            }
          }
        }
      }
    }
  }
  T* to = out + plane + c0 * shape.pixels + first;
  FASTFCS_UNROLL
  for (int c = 0; c < kOutputs; ++c, to += shape.pixels) {
    if (c0 + c >= channels) break;
    if constexpr (kAligned) {
      Pixels values;
      FASTFCS_UNROLL
      for (int q = 0; q < kPixels; ++q) values.element[q] = sum[q][c];
      if (inside(0)) store_once(reinterpret_cast<Pixels*>(to), values);
    } else {
      FASTFCS_UNROLL
      for (int q = 0; q < kPixels; ++q)
        if (inside(q)) store_once(to + q * kStep, sum[q][c]);
    }
  }
}

// ------------------------------------------------------- tensor cores, and channels_last --

// The weights do not fit into half types. Every column is scaled by a power of two, to magnitudes
// below 2, and split into the sum of two half numbers. Their error is then 2^-22 (float16) or 2^-17
// (bfloat16) of the column's largest weight, far below the rounding of the result, for twice the
// work on tensor cores. With one half number the error would be 2^-9 in bfloat16, and a larger part
// of the result where terms cancel. TF32 uses one number, since its rounding was requested. Without
// tensor cores, weights are used as they are.
//
// A step multiplies kSide channels of a tile of pixels while the next step is being loaded, 16 KB
// per block. The weights of all steps stay in shared memory if they fit. Otherwise each step reads
// its weights again, from L2: as many bytes as its pixels (TF32: as 64 pixels).
//
// Traffic per pixel, half types (twice as much for TF32 and float32): 2 C bytes of h, from L2 if it
// holds them, read ceil(C / 64) times from L2 (float32: C / 32); 2 C bytes written. What is added
// costs 2 C bytes of h again, from L2, and C / 2 of the coarse features.
template <typename T, typename A, int kSide, Layout kLayout>
struct ApplyTiling {
  static constexpr bool kChannelsFirst = kLayout == Layout::channels_first;
  static constexpr int kPixels = 16384 / sizeof(T) / kSide;
  static constexpr int kStride = kChannelsFirst ? kPixels + 8 : kSide + 16 / int(sizeof(T));
  static constexpr int kOutputs = kSide < 32 ? kSide : 32;         // per warp
  static constexpr int kWarpPixels = 4096 / sizeof(T) / kOutputs;  // per warp
  using Apply = WarpApply<T, kOutputs, kWarpPixels, kStride, kLayout>;
  using Fragment = WeightFragment<T>;
  static constexpr int kPartSize = kSide * kSide;                 // numbers per step and part
  static constexpr int kStepSize = kPartSize * Fragment::kParts;  // numbers per step
  // bytes of h, later of results
  static constexpr size_t kTile = (kChannelsFirst ? kSide : kPixels) * kStride * sizeof(T);
  static_assert(kWarps * Apply::kResults <= kTile);
  static size_t bytes(int weight_slots) {
    return 2 * kTile + weight_slots * kStepSize * sizeof(T) + 2 * kSide * sizeof(A);
  }
};

// Blocks per multiprocessor at most; they then fill its registers. Adding coarse features takes
// more than 128 per thread.
template <Layout kLayout>
constexpr int kApplyBlocks = kLayout == Layout::channels_first ? 4 : 3;

template <typename T>
__device__ T rounded(accumulate_t<T> value) {
  if constexpr (std::is_same_v<T, Tf32>)
    return T(as_float(rounded_to_tf32(value)));
  else
    return static_cast<T>(value);
}

// Where results in the layout channels_last go, and what is added to them. With a height they are
// padded and become the gradient of a level, h W + s(h) U coarse.
template <typename T, typename A>
struct ApplyResults {
  T* out;                                 // like f or, if padded, [B, H+2, W+2, C]
  int height = 0, width = 0;              // of f, or 0
  const T* coarse = nullptr;              // [B, ceil(H/2), ceil(W/2), C] or null
  A slope = 0, scale_y = 0, scale_x = 0;  // the latter two: ceil(H/2) / H, ceil(W/2) / W

  // Adds to, rounds and writes the sums of kVector channels from c on of pixel p, (y, x).
  template <int kVector>
  __device__ __forceinline__ void write(A (&sum)[kVector], const T* h, const GramShape& shape,
                                        int64_t batch, int64_t p, int y, int x, int c) const {
    using Channels = Vector<T, kVector>;
    const int64_t at = (batch * shape.pixels + p) * shape.channels + c;
    if (coarse) {
      const int down = halved(height), across = halved(width);
      const Neighbours<A> rows(y, scale_y, down), columns(x, scale_x, across);
      const T* const from = coarse + batch * down * across * shape.channels + c;
      const auto near = [&](int row, int column) {
        return *reinterpret_cast<const Channels*>(from + (int64_t{row} * across + column) *
                                                             shape.channels);
      };
      const Channels gates = *reinterpret_cast<const Channels*>(h + at);
      const Channels coarse_pixels[] = {
          near(rows.first, columns.first), near(rows.first, columns.second),
          near(rows.second, columns.first), near(rows.second, columns.second)};
      const A weights[] = {(1 - rows.weight) * (1 - columns.weight),
                           (1 - rows.weight) * columns.weight, rows.weight * (1 - columns.weight),
                           rows.weight * columns.weight};
      FASTFCS_UNROLL
      for (int v = 0; v < kVector; ++v) {
        A enlarged{};
        FASTFCS_UNROLL
        for (int i = 0; i < 4; ++i)
          enlarged += weights[i] * static_cast<A>(coarse_pixels[i].element[v]);
        sum[v] += gated(enlarged, gates.element[v], slope);
      }
    }
    Channels values;
    FASTFCS_UNROLL
    for (int v = 0; v < kVector; ++v) values.element[v] = static_cast<T>(sum[v]);
    if (height)
      store_padded(out + batch * (height + 2) * (width + 2) * shape.channels + c, y, x, height,
                   width, shape.channels, values);
    else
      store_once(reinterpret_cast<Channels*>(out + at), values);
  }
};

// Writes a warp's results, piece by piece by way of shared memory: rows of pixels, [B, C, n].
template <typename Apply, typename T>
__device__ __forceinline__ void store_rows(const Apply& apply, const float* scales, int warp_c,
                                           T* results, T* out, const GramShape& shape,
                                           const BlockCoordinates& block, int64_t p0, int lane,
                                           int width) {
  const int channels = static_cast<int>(shape.channels);
  FASTFCS_UNROLL
  for (int piece = 0; piece < Apply::kPieces; ++piece) {
    const int c0 = warp_c + Apply::output(piece);
    apply.store(piece, scales + c0, results);
    __syncwarp();
    const int64_t p = p0 + Apply::pixel(piece);
    T* const to = out + (block.batch * channels + block.c0 + c0) * shape.pixels + p;
    const int rows = min(16, channels - block.c0 - c0);
    if (width == 16) {
      constexpr int kVector = 16 / sizeof(T), kColumns = Apply::kPiecePixels / kVector;
      for (int at = lane; at < rows * kColumns; at += kLanes) {
        const int c = at / kColumns, q = at % kColumns * kVector;
        if (p + q < shape.pixels)
          store_once(
              reinterpret_cast<Vector<T, kVector>*>(to + c * shape.pixels + q),
              *reinterpret_cast<const Vector<T, kVector>*>(results + c * Apply::kPieceStride + q));
      }
    } else {
      for (int c = 0; c < rows; ++c)
        for (int q = lane; q < Apply::kPiecePixels && p + q < shape.pixels; q += kLanes)
          store_once(to + c * shape.pixels + q, results[c * Apply::kPieceStride + q]);
    }
    __syncwarp();
  }
}

// The same for rows of channels, [B, n, C]: pixels from p0 on, which is (y0, x0), kVector channels
// per lane at a time.
template <typename Tile, int kVector, typename T, typename A>
__device__ __forceinline__ void write_pixels(const A* results, const ApplyResults<T, A>& result,
                                             const T* h, const GramShape& shape, int64_t batch,
                                             int c0, int64_t p0, int y0, int x0, int lane) {
  constexpr int kColumns = Tile::kOutputs / kVector;
#pragma unroll 1
  for (int at = lane; at < Tile::Apply::kPiecePixels * kColumns; at += kLanes) {
    const int p = at / kColumns, c = at % kColumns * kVector;
    if (p0 + p >= shape.pixels || c0 + c >= shape.channels) continue;
    const unsigned x = static_cast<unsigned>(x0) + p, row = result.width ? x / result.width : 0;
    A sum[kVector];
    FASTFCS_UNROLL
    for (int v = 0; v < kVector; ++v) sum[v] = results[p * Tile::Apply::kResultRow + c + v];
    result.write(sum, h, shape, batch, p0 + p, static_cast<int>(y0 + row),
                 static_cast<int>(x - row * result.width), c0 + c);
  }
}

template <typename Tile, typename T, typename A>
__device__ __forceinline__ void store_pixels(const typename Tile::Apply& apply, const A* scales,
                                             int warp_c, A* results,
                                             const ApplyResults<T, A>& result, const T* h,
                                             const GramShape& shape, const BlockCoordinates& block,
                                             int64_t p0, int lane, int width) {
  using Apply = typename Tile::Apply;
  const int c0 = block.c0 + warp_c;
  const int y = result.width ? static_cast<int>(p0 / result.width) : 0;
  int x = result.width ? static_cast<int>(p0 % result.width) : 0;
#pragma unroll 1  // the code that follows is long
  for (int piece = 0; piece < Apply::kPieces; ++piece) {
    FASTFCS_UNROLL
    for (int i = 0; i < Apply::kPieces; ++i)  // a constant index keeps the sums in registers
      if (i == piece) apply.store(i, scales + warp_c, results);
    __syncwarp();
    if (width == 16)
      write_pixels<Tile, 16 / sizeof(T)>(results, result, h, shape, block.batch, c0, p0, y, x,
                                         lane);
    else
      write_pixels<Tile, 1>(results, result, h, shape, block.batch, c0, p0, y, x, lane);
    __syncwarp();
    p0 += Apply::kPiecePixels;
    x += Apply::kPiecePixels;  // may lie in a later row
  }
}

template <typename T, typename A, int kSide, Layout kLayout>
__global__ void __launch_bounds__(kThreads, kApplyBlocks<kLayout>)
    apply_tiles_kernel(ApplyOperands<T, A> operands, ApplyResults<T, A> result, GramShape shape,
                       int ctas_per_tile, int weight_slots, int width) {
  using Tile = ApplyTiling<T, A, kSide, kLayout>;
  using Apply = typename Tile::Apply;
  using Fragment = typename Tile::Fragment;
  T* const weights = shared_memory<T>();  // [weight slot][part][fragment][lane][element]
  unsigned char* const ring =             // two slots of kTile bytes
      reinterpret_cast<unsigned char*>(weights + weight_slots * Tile::kStepSize);
  A* const scales = reinterpret_cast<A*>(ring + 2 * Tile::kTile);
  A* const inverses = scales + kSide;
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int channels = static_cast<int>(shape.channels);
  const BlockCoordinates block(shape, kSide);
  const int chunks = (channels + kSide - 1) / kSide, steps = chunks * operands.count();
  const int64_t tiles = (shape.pixels + Tile::kPixels - 1) / Tile::kPixels;
  const int64_t element = block.batch * channels * shape.pixels;

  const auto load = [&](int slot, int64_t tile, int step) {
    if (tile >= 0)
      copy_features<kLayout, kSide, Tile::kPixels, Tile::kStride>(
          reinterpret_cast<T*>(ring + slot * Tile::kTile),
          operands.features(step / chunks) + element, shape, step % chunks * kSide,
          tile * Tile::kPixels, width);
    copy_commit();
  };
  load(0, tiles - 1 - block.pixel_tile, 0);

  // scales[c] = 2^e, inverses[c] = 2^-e with max_k |w[k][c]| in [2^e, 2^(e+1))
  if constexpr (kOnTensorCores<T>) {
    float* const maxima = reinterpret_cast<float*>(ring + Tile::kTile);
    float largest = 0;
    for (int term = 0; term < operands.count(); ++term)
      for (int k = threadIdx.x / kSide; k < channels; k += kThreads / kSide)
        largest = fmaxf(largest, fabsf(operands.weight(term, block.batch, channels, k,
                                                       block.c0 + threadIdx.x % kSide)));
    maxima[threadIdx.x] = largest;
    __syncthreads();
    if (threadIdx.x < kSide) {
      for (int t = threadIdx.x; t < kThreads; t += kSide) largest = fmaxf(largest, maxima[t]);
      const int exponent = largest > 0 ? max(-100, min(100, ilogbf(largest))) : 0;
      scales[threadIdx.x] = scalbnf(1.f, exponent);
      inverses[threadIdx.x] = scalbnf(1.f, -exponent);
    }
    __syncthreads();
  }
  constexpr int kAcross = kSide / 16;  // fragments
  const auto split_weights = [&](int step) {
    T* const to = weights + (step < weight_slots ? step : 0) * Tile::kStepSize;
    for (int i = threadIdx.x; i < Tile::kPartSize / Fragment::kLaneWeights; i += kThreads) {
      const int k0 = step % chunks * kSide + i / kLanes / kAcross * Fragment::kDepth;
      const int c0 = i / kLanes % kAcross * 16;
      Vector<T, Fragment::kLaneWeights> high, low;
      FASTFCS_UNROLL
      for (int e = 0; e < Fragment::kLaneWeights; ++e) {
        const int k = k0 + Apply::depth_of(i % kLanes, e);
        const int c = c0 + Apply::output_of(i % kLanes, e);
        A w = operands.weight(step / chunks, block.batch, channels, k, block.c0 + c);
        if constexpr (kOnTensorCores<T>) w *= inverses[c];
        high.element[e] = rounded<T>(w);
        low.element[e] = rounded<T>(w - static_cast<A>(high.element[e]));
      }
      auto* const at = reinterpret_cast<Vector<T, Fragment::kLaneWeights>*>(to) + i;
      *at = high;
      if constexpr (Fragment::kParts == 2) at[Tile::kPartSize / Fragment::kLaneWeights] = low;
    }
  };
  const bool resident = weight_slots == steps;
  if (resident)
    for (int step = 0; step < steps; ++step) split_weights(step);

  constexpr int kWarpsDown = kSide / Tile::kOutputs;
  const int warp_c = warp % kWarpsDown * Tile::kOutputs;
  const int warp_p = warp / kWarpsDown * Tile::kWarpPixels;
  int slot = 0;  // of the step that is multiplied
  for (int64_t t = tiles - 1 - block.pixel_tile; t >= 0; t -= ctas_per_tile) {
    const int64_t p0 = t * Tile::kPixels + warp_p;
    Apply apply(lane);
    for (int step = 0; step < steps; ++step, slot ^= 1) {
      copy_wait<0>();
      __syncthreads();  // all copies of this step have arrived, and no warp reads the previous one
      const bool last = step + 1 == steps;
      load(slot ^ 1, last ? t - ctas_per_tile : t, last ? 0 : step + 1);
      if (!resident) {
        split_weights(step);
        __syncthreads();
      }
      if (block.c0 + warp_c >= channels) continue;
      const T* const high =
          weights + (resident ? step : 0) * Tile::kStepSize + warp_c / 16 * Fragment::kSize;
      apply.template add<kAcross>(high, high + (Fragment::kParts - 1) * Tile::kPartSize,
                                  reinterpret_cast<const T*>(ring + slot * Tile::kTile) +
                                      warp_p * (Tile::kChannelsFirst ? 1 : Tile::kStride),
                                  min(kSide, channels - step % chunks * kSide));
    }
    __syncthreads();  // no warp reads the last step's slot any more: it takes the results
    unsigned char* const results = ring + (slot ^ 1) * Tile::kTile + warp * Apply::kResults;
    if constexpr (Tile::kChannelsFirst)
      store_rows(apply, scales, warp_c, reinterpret_cast<T*>(results), result.out, shape, block, p0,
                 lane, width);
    else
      store_pixels<Tile>(apply, scales, warp_c, reinterpret_cast<A*>(results), result, operands.f,
                         shape, block, p0, lane, width);
  }
}

}  // namespace
}  // namespace fastfcs::cuda
