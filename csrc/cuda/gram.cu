// The Gram matrix, its correction and the backward of the correction on CUDA; formulas in gram.h.
// h is stored transposed, (channels, pixels), so that h^T g / n is a product over the contiguous pixels.
#include <algorithm>

#include "kernels.h"
#include "warp_product.h"

namespace fastfcs::cuda {
namespace {

constexpr int kLanes = 32;

// Warps of a block of product_kernel; each has its own two tiles in shared memory, 48 KB in all being the limit.
template <typename T>
constexpr int kWarps = sizeof(T) == 8 ? 2 : 4;

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// to[i][lane] = from[i][pixel + lane] for the 32 channels of a tile, zero beyond the last channel and pixel.
template <typename T>
__device__ __forceinline__ void load_tile(T* to, const T* from, int rows, std::int64_t pixel, std::int64_t pixels,
                                          int lane) {
  const bool inside = pixel + lane < pixels;
  from += pixel + lane;
  to += lane;
#pragma unroll 8  // loads in flight; more of them cost registers, and so warps
  for (int i = 0; i < kTile; ++i, from += pixels)
    to[i * WarpProduct<T>::kStride] = inside && i < rows ? *from : static_cast<T>(0.f);
}

// partial[b][split][i][j] = sum over the split's pixels p of f_i(p) g_j(p)
//
// A block makes one 32 x 32 tile of one split of the pixels; its warps take 32 pixels in turn, each into its own
// registers, and are summed in order. The splits are summed, in order, by reduce_kernel: deterministic, no atomics.
// Symmetric: f is g, tiles below the diagonal are mirrored and not computed.
// Traffic, C <= 32: h once, 4 C B a pixel in float32, 2 C in half types; above, tiles share h through L2.
template <typename T, typename A>
__global__ void __launch_bounds__(kWarps<T>* kLanes, 4)
    product_kernel(const T* __restrict__ f, const T* __restrict__ g, A* __restrict__ partial, Features shape,
                   int splits, bool symmetric) {
  constexpr int kSide = kTile * WarpProduct<T>::kStride;
  const int channels = static_cast<int>(shape.channels), tiles = (channels + kTile - 1) / kTile;
  const int i0 = blockIdx.x % tiles * kTile, j0 = blockIdx.x / tiles % tiles * kTile;
  if (symmetric && i0 > j0) return;
  const unsigned part = blockIdx.x / tiles / tiles;  // of all batches
  const std::int64_t batch = part / splits;
  const int split = part % splits;
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;

  T* const tile_f = shared_memory<T>() + warp * 2 * kSide;
  T* const tile_g = symmetric && i0 == j0 ? tile_f : tile_f + kSide;
  const T* const from_f = f + (batch * channels + i0) * shape.pixels;
  const T* const from_g = g + (batch * channels + j0) * shape.pixels;
  WarpProduct<T> product;
  for (std::int64_t p = std::int64_t{split * kWarps<T> + warp} * kTile; p < shape.pixels;
       p += std::int64_t{splits} * kWarps<T> * kTile) {
    load_tile(tile_f, from_f, channels - i0, p, shape.pixels, lane);
    if (tile_g != tile_f) load_tile(tile_g, from_g, channels - j0, p, shape.pixels, lane);
    __syncwarp();
    product.add(tile_f, tile_g, lane);
    __syncwarp();
  }
  constexpr int kWarpBytes = 2 * kSide * sizeof(T);  // the tiles' place now takes the warp's 32 x 32 sums
  static_assert(kWarpBytes >= kTile * kTile * sizeof(A));
  unsigned char* const sums = shared_memory<unsigned char>();
  product.store(reinterpret_cast<A*>(sums + warp * kWarpBytes), lane);
  __syncthreads();
  for (int at = threadIdx.x; at < kTile * kTile; at += kWarps<T> * kLanes) {
    const int i = i0 + at / kTile, j = j0 + at % kTile;
    if (i >= channels || j >= channels) continue;
    A sum{};
    FASTFCS_UNROLL
    for (int w = 0; w < kWarps<T>; ++w) sum += reinterpret_cast<const A*>(sums + w * kWarpBytes)[at];
    A* const to = partial + std::int64_t{part} * channels * channels;
    to[i * channels + j] = sum;
    if (symmetric && i0 < j0) to[j * channels + i] = sum;
  }
}

// out[b] = scale sum_split partial[b][split] - target[b]     (target may be null, or one for all b)
// 32 entries a block; eight warps take the splits in turn.
constexpr int kReduceWarps = 8;

template <typename A>
__global__ void __launch_bounds__(kReduceWarps* kLanes)
    reduce_kernel(const A* __restrict__ partial, const A* __restrict__ target, A* __restrict__ out, Features shape,
                  int splits, A scale) {
  A* const sums = shared_memory<A>();
  const std::int64_t entries = shape.channels * shape.channels, groups = (entries + kLanes - 1) / kLanes;
  const std::int64_t batch = blockIdx.x / groups;
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const std::int64_t entry = blockIdx.x % groups * kLanes + lane;
  A sum{};
  if (entry < entries)
    for (int s = warp; s < splits; s += kReduceWarps) sum += partial[(batch * splits + s) * entries + entry];
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (warp > 0 || entry >= entries) return;
  for (int w = 1; w < kReduceWarps; ++w) sum += sums[w * kLanes + lane];
  const A subtract = target ? target[(shape.targets == 1 ? 0 : batch) * entries + entry] : A{};
  out[batch * entries + entry] = sum * scale - subtract;
}

// weights = (S + S^T) / n, dtarget = -S, summed over the batch where one target serves it all.
constexpr int kThreads = 128;

template <typename A>
__global__ void __launch_bounds__(kThreads)
    backward_weights_kernel(const A* __restrict__ s, A* __restrict__ weights, A* __restrict__ dtarget, Features shape,
                            A scale) {
  const std::int64_t channels = shape.channels, entries = channels * channels;
  const std::int64_t at = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at >= shape.batch * entries) return;
  const std::int64_t batch = at / entries, entry = at % entries;
  const std::int64_t mirrored = batch * entries + entry % channels * channels + entry / channels;
  weights[at] = (s[at] + s[mirrored]) * scale;
  if (batch >= shape.targets) return;
  A sum = s[at];
  if (shape.targets == 1)
    for (std::int64_t b = 1; b < shape.batch; ++b) sum += s[b * entries + entry];
  dtarget[at] = -sum;
}

// out_c(p) = sum_k f_k(p) w_f[k][c] + sum_k g_k(p) w_g[k][c]         (w_f read as its transpose if told; g may be null)
//
// A thread holds kPixels pixels of 32 output channels in registers; the weights' 32 x 32 tile is in shared memory, and
// every thread reads the same word of it at once. Always true float32 (float64) sums: rounding the weights to a half type
// would lose what the correction is about, the difference of two Gram matrices.
// Traffic, C <= 32: h read and out written once, 8 C B a pixel in float32; above, h is read again for every 32 outputs,
// from L2.
template <typename T, typename A>
__global__ void __launch_bounds__(kThreads, sizeof(A) == 8 ? 3 : 4)
    apply_kernel(const T* __restrict__ f, const A* __restrict__ w_f, bool transposed, const T* __restrict__ g,
                 const A* __restrict__ w_g, T* __restrict__ out, Features shape) {
  constexpr int kPixels = sizeof(A) == 8 ? 1 : 2;
  A* const tile = shared_memory<A>();  // [k][c]
  const int channels = static_cast<int>(shape.channels), tiles = (channels + kTile - 1) / kTile;
  const int c0 = blockIdx.x % tiles * kTile;  // the outputs of one place follow one another: h stays in L2
  const std::int64_t spans = (shape.pixels + kThreads * kPixels - 1) / (kThreads * kPixels);
  const std::int64_t batch = blockIdx.x / tiles / spans;
  const std::int64_t first = blockIdx.x / tiles % spans * (kThreads * kPixels) + threadIdx.x;

  A sum[kPixels][kTile] = {};
  for (int term = 0; term < (g ? 2 : 1); ++term) {
    const T* const from = (term ? g : f) + batch * channels * shape.pixels + first;
    const A* const weights = (term ? w_g : w_f) + batch * channels * channels;
    const bool swap = transposed && !term;
    for (int k0 = 0; k0 < channels; k0 += kTile) {
      __syncthreads();
      for (int i = threadIdx.x; i < kTile * kTile; i += kThreads) {
        const int k = k0 + i / kTile, c = c0 + i % kTile;
        tile[i] = k < channels && c < channels ? weights[swap ? c * channels + k : k * channels + c] : A{};
      }
      __syncthreads();
      const T* at = from + k0 * shape.pixels;
#pragma unroll 2
      for (int k = 0; k < min(kTile, channels - k0); ++k, at += shape.pixels) {
        FASTFCS_UNROLL
        for (int q = 0; q < kPixels; ++q) {
          const A value = first + q * kThreads < shape.pixels ? A(at[q * kThreads]) : A{};
          FASTFCS_UNROLL
          for (int c = 0; c < kTile; ++c) sum[q][c] += value * tile[k * kTile + c];
        }
      }
    }
  }
  FASTFCS_UNROLL
  for (int q = 0; q < kPixels; ++q) {
    const std::int64_t p = first + q * kThreads;
    if (p >= shape.pixels) break;
    T* to = out + (batch * channels + c0) * shape.pixels + p;
    FASTFCS_UNROLL
    for (int c = 0; c < kTile; ++c, to += shape.pixels)
      if (c0 + c < channels) *to = static_cast<T>(sum[q][c]);
  }
}

// How many parts the pixels are split into: enough blocks to fill a large GPU, but no more than there is work for.
// The same everywhere, so that every GPU gives the same bits.
int splits_of(Features shape) {
  const std::int64_t tiles = divide_up(shape.channels, kTile);
  const std::int64_t wanted = divide_up(512, std::max<std::int64_t>(1, shape.batch * tiles * (tiles + 1) / 2));
  return static_cast<int>(std::min(wanted, divide_up(shape.pixels, 4 * kTile)));
}

std::int64_t entries_of(Features shape) { return shape.batch * shape.channels * shape.channels; }

// out = scale f^T g - target, through the partial sums in workspace.
template <typename T, typename A>
void product(const T* f, const T* g, const A* target, A* out, A* workspace, double scale, Features shape,
             Stream stream) {
  if (entries_of(shape) == 0) return;
  const int splits = splits_of(shape);
  const std::int64_t tiles = divide_up(shape.channels, kTile);
  launch("product_kernel", product_kernel<T, A>, shape.batch * splits * tiles * tiles, kWarps<T> * kLanes,
         kWarps<T> * 2 * kTile * WarpProduct<T>::kStride * sizeof(T), stream, f, g, workspace, shape, splits, f == g);
  launch("reduce_kernel", reduce_kernel<A>, shape.batch * divide_up(shape.channels * shape.channels, kLanes),
         kReduceWarps * kLanes, kReduceWarps * kLanes * sizeof(A), stream, workspace, target, out, shape, splits,
         static_cast<A>(scale));
}

template <typename T, typename A>
void apply(const T* f, const A* w_f, bool transposed, const T* g, const A* w_g, T* out, Features shape, Stream stream) {
  if (entries_of(shape) == 0) return;
  const std::int64_t spans = divide_up(shape.pixels, kThreads * (sizeof(A) == 8 ? 1 : 2));
  launch("apply_kernel", apply_kernel<T, A>, shape.batch * spans * divide_up(shape.channels, kTile), kThreads,
         kTile * kTile * sizeof(A), stream, f, w_f, transposed, g, w_g, out, shape);
}

}  // namespace

std::int64_t gram_workspace(Features shape) { return splits_of(shape) * entries_of(shape); }

std::int64_t gram_correction_workspace(Features shape) { return gram_workspace(shape) + entries_of(shape); }

std::int64_t gram_correction_backward_workspace(Features shape) {
  return gram_workspace(shape) + 3 * entries_of(shape);
}

template <typename T, typename A>
void gram(const T* h, A* out, A* workspace, Features shape, Stream stream) {
  product<T, A>(h, h, nullptr, out, workspace, 1.0 / shape.pixels, shape, stream);
}

template <typename T, typename A>
void gram_correction(const T* h, const A* target, T* out, A* workspace, Features shape, Stream stream) {
  A* const difference = workspace + gram_workspace(shape);
  product(h, h, target, difference, workspace, 1.0 / shape.pixels, shape, stream);
  apply<T, A>(h, difference, false, nullptr, nullptr, out, shape, stream);
}

template <typename T, typename A>
void gram_correction_backward(const T* h, const A* target, const T* grad, T* dh, A* dtarget, A* workspace,
                              Features shape, Stream stream) {
  if (entries_of(shape) == 0) return;
  A* const difference = workspace + gram_workspace(shape);
  A* const s = difference + entries_of(shape);
  A* const weights = s + entries_of(shape);
  product(h, h, target, difference, workspace, 1.0 / shape.pixels, shape, stream);
  product<T, A>(h, grad, nullptr, s, workspace, 1.0, shape, stream);
  launch("backward_weights_kernel", backward_weights_kernel<A>, divide_up(entries_of(shape), kThreads), kThreads, 0,
         stream, s, weights, dtarget, shape, static_cast<A>(1.0 / shape.pixels));
  apply(grad, difference, true, h, weights, dh, shape, stream);
}

#define FASTFCS_INSTANTIATE(T, A)                                                                       \
  template void gram(const T*, A*, A*, Features, Stream);                                               \
  template void gram_correction(const T*, const A*, T*, A*, Features, Stream);                          \
  template void gram_correction_backward(const T*, const A*, const T*, T*, A*, A*, Features, Stream);
FASTFCS_INSTANTIATE(float, float)
FASTFCS_INSTANTIATE(double, double)
FASTFCS_INSTANTIATE(Half, float)
FASTFCS_INSTANTIATE(BFloat16, float)
#undef FASTFCS_INSTANTIATE

}  // namespace fastfcs::cuda
