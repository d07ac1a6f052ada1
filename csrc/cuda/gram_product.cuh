// The products G = h^T h / n and S = h^T g on CUDA: split-K partial sums per tile, their reduction,
// and the weights that the backward pass derives from S. Included by gram.cu.
#pragma once

#include <cstdint>

#include "async_copy.h"
#include "kernels.h"
#include "tile_copy.cuh"
#include "warp_product.h"

namespace fastfcs::cuda {
namespace {

// The jobs of product_kernel: for every batch element and split-K slice of the pixels, one block
// per tile. The tiles are those of G on and above the diagonal, if `gram`, and all tiles of S, if
// `cross`.
struct TileJobs {
  int side, tiles, slices;  // side of a tile, tiles along the side of a matrix, split-K slices
  bool gram, cross;
  __host__ __device__ int gram_count() const { return gram ? tiles * (tiles + 1) / 2 : 0; }
  __host__ __device__ int count() const { return gram_count() + (cross ? tiles * tiles : 0); }
};

// A block computes a tile of kSide x kSide. For kSide = 64 each of its four warps computes a
// quadrant of 32 x 32. For kSide = 16 and 32 each computes the whole tile over a quarter of the
// pixels. C = 16 has tiles of its own, because padding it to 32 would take four times the
// multiply-adds. Tiles lie in shared memory as h does in device memory, [channel][pixel] or
// [pixel][channel].
template <typename T, int kSide, Layout kLayout>
struct ProductTiling {
  static constexpr bool kChannelsFirst = kLayout == Layout::channels_first;
  static constexpr int kWarpSide = kSide < 32 ? kSide : 32;
  static constexpr int kQuadrants = (kSide / kWarpSide) * (kSide / kWarpSide);
  static constexpr int kPixelGroups = kWarps / kQuadrants;  // warps that divide the pixels
  static constexpr int kPixels = 8192 / sizeof(T) / kSide;  // per stage: 8 KB per operand
  static constexpr int kStride = (kChannelsFirst ? kPixels : kSide) + kProductPad<T, kLayout>;
  static constexpr int kChannelStep = kChannelsFirst ? kStride : 1;
  static constexpr int kPixelStep = kChannelsFirst ? 1 : kStride;
  static constexpr int kSlots = 4;  // ring of operands
  static constexpr int kSlotSize = (kChannelsFirst ? kSide : kPixels) * kStride;
  static constexpr size_t kBytes = kSlots * kSlotSize * sizeof(T);
  using Product = WarpProduct<T, kWarpSide, kPixels / kPixelGroups, kStride, kLayout>;
};

// partial[batch][slice][job][i][j] = sum of h_i(p) h_j(p), or of h_i(p) g_j(p), over the slice's p
//
// Loads run ahead of the arithmetic in a ring of stages, 8 KB per operand. Three stages are in
// flight while one is computed if both operands are the same rows, else one: 24 or 16 KB per block,
// 72 or 48 KB per multiprocessor. 4 TB/s at a latency of 1 us need 30 KB.
//
// Slice s takes the stages s, s + slices, s + 2 slices... Thus all blocks move through h together,
// and tiles that share rows find them in L2. reduce_kernel adds the slices in order: no atomics.
//
// Traffic per pixel from device memory: 4 C bytes in float32, 2 C in half types, twice that with g.
// From L2, rows are read once per tile that contains them.
template <typename T, typename A, int kSide, Layout kLayout>
__global__ void __launch_bounds__(kThreads, sizeof(A) == 8 ? 2 : 3)
    product_kernel(const T* __restrict__ h,  // [B, C, n] or [B, n, C]
                   const T* __restrict__ g,  // the same, or null
                   A* __restrict__ partial,  // [B, slices, jobs, kSide, kSide]
                   GramShape shape, TileJobs jobs, int width) {
  using Tile = ProductTiling<T, kSide, kLayout>;
  constexpr int kWarpSide = Tile::kWarpSide;
  constexpr int kPartialSums = Tile::kPixelGroups * Tile::Product::kPixelGroups;
  static_assert(kPartialSums * kSide * kSide * sizeof(A) <= Tile::kBytes);

  const int channels = static_cast<int>(shape.channels);
  const int64_t part = blockIdx.x / jobs.count(), batch = part / jobs.slices;
  const int slice = static_cast<int>(part % jobs.slices);
  int job = blockIdx.x % jobs.count(), ti = 0, tj = 0;
  const bool cross = job >= jobs.gram_count();
  if (cross) {
    ti = (job - jobs.gram_count()) / jobs.tiles;
    tj = (job - jobs.gram_count()) % jobs.tiles;
  } else {
    while ((tj + 1) * (tj + 2) / 2 <= job) ++tj;  // job = tj (tj + 1) / 2 + ti
    ti = job - tj * (tj + 1) / 2;
  }
  const int i0 = ti * kSide, j0 = tj * kSide;
  const bool same = !cross && ti == tj;
  const int64_t element = batch * channels * shape.pixels;
  const T* const rows = h + element;
  const T* const columns = (cross ? g : h) + element;

  T* const ring = shared_memory<T>();
  constexpr int kEnd = Tile::kSlots * Tile::kSlotSize;
  const int step = same ? Tile::kSlotSize : 2 * Tile::kSlotSize;  // from one stage to the next
  const auto after = [&](int slot) { return slot + step == kEnd ? 0 : slot + step; };
  const int64_t stride = int64_t{jobs.slices} * Tile::kPixels;
  int64_t next = int64_t{slice} * Tile::kPixels;  // first pixel of the stage to be loaded next
  const auto load = [&](int slot) {
    if (next < shape.pixels) {
      T* const to = ring + slot;
      copy_features<kLayout, kSide, Tile::kPixels, Tile::kStride>(to, rows, shape, i0, next, width);
      if (!same)
        copy_features<kLayout, kSide, Tile::kPixels, Tile::kStride>(to + Tile::kSlotSize, columns,
                                                                    shape, j0, next, width);
    }
    next += stride;
    copy_commit();  // an empty group past the end keeps the number of newer groups constant
  };

  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int quadrant = warp % Tile::kQuadrants, pixel_group = warp / Tile::kQuadrants;
  constexpr int kAcross = kSide / kWarpSide;
  const int in_i = quadrant / kAcross * kWarpSide * Tile::kChannelStep;
  const int in_j = quadrant % kAcross * kWarpSide * Tile::kChannelStep;
  const int in_p = pixel_group * (Tile::kPixels / Tile::kPixelGroups) * Tile::kPixelStep;

  typename Tile::Product product(lane);
  for (int slot = 0; slot < kEnd - step; slot += step) load(slot);
  int current = 0, free = kEnd - step;
  for (int64_t p = int64_t{slice} * Tile::kPixels; p < shape.pixels; p += stride) {
    if (same)
      copy_wait<Tile::kSlots - 2>();
    else
      copy_wait<Tile::kSlots / 2 - 2>();
    __syncthreads();  // all copies of this stage have arrived, and no warp reads the previous one
    load(free);       // overwrites the previous stage
    const T* const a = ring + current + in_p;
    product.add(a + in_i, (same ? a : a + Tile::kSlotSize) + in_j);
    free = current;
    current = after(current);
  }
  copy_wait<0>();
  __syncthreads();

  // [pixel group of warps][pixel group of lanes][quadrant][kWarpSide][kWarpSide]
  A* const sums = shared_memory<A>();
  product.store(sums + (pixel_group * Tile::Product::kPixelGroups * Tile::kQuadrants + quadrant) *
                           kWarpSide * kWarpSide);
  __syncthreads();
  A* const to = partial + (part * jobs.count() + job) * kSide * kSide;
  for (int at = threadIdx.x; at < kSide * kSide; at += kThreads) {
    const int i = at / kSide, j = at % kSide;
    const int quadrant_of = i / kWarpSide * kAcross + j / kWarpSide;
    const int from = (quadrant_of * kWarpSide + i % kWarpSide) * kWarpSide + j % kWarpSide;
    A sum{};
    FASTFCS_UNROLL
    for (int term = 0; term < kPartialSums; ++term) sum += sums[term * kSide * kSide + from];
    to[at] = sum;
  }
}

// out[0][b] = scale sum_slices partial of G - target[b]   (target may be null, or one for all b)
// out[1][b] = sum_slices partial of S, if there is one; out[0][b] if there is no G
//
// A block computes eight entries, 32 bytes of each partial sum. Each entry has blockDim.x / 8
// threads, a power of two. Thread t of an entry adds slices t, t + threads, ...; a tree adds the
// threads. Entries of G below the diagonal are read from above it, so that G is exactly symmetric.
//
// Every partial sum is read once, from L2: for one G up to 6.5 MB in float32, 13 MB in half types
// above C = 32.
constexpr int kReduceEntries = 8, kReduceMaxThreads = 128;  // per block; per entry

template <typename A>
__global__ void __launch_bounds__(kReduceEntries* kReduceMaxThreads)
    reduce_kernel(const A* __restrict__ partial,  // [B, slices, jobs, side, side]
                  const A* __restrict__ target,   // [targets, C, C] or null
                  A* __restrict__ out,            // [1 or 2, B, C, C]
                  GramShape shape, TileJobs jobs, A scale) {
  A* const sums = shared_memory<A>();
  const int thread = threadIdx.x / kReduceEntries, threads = blockDim.x / kReduceEntries;
  const int64_t entries = shape.channels * shape.channels;
  const int64_t groups = (entries + kReduceEntries - 1) / kReduceEntries;
  const int64_t matrix = blockIdx.x / groups, batch = matrix % shape.batch;
  const bool cross = matrix >= (jobs.gram ? shape.batch : 0);
  const int64_t entry = blockIdx.x % groups * kReduceEntries + threadIdx.x % kReduceEntries;
  A sum{};
  if (entry < entries) {
    int i = static_cast<int>(entry / shape.channels), j = static_cast<int>(entry % shape.channels);
    if (!cross && i > j) {
      const int row = i;
      i = j;
      j = row;
    }
    const int ti = i / jobs.side, tj = j / jobs.side;
    const int job = cross ? jobs.gram_count() + ti * jobs.tiles + tj : tj * (tj + 1) / 2 + ti;
    const int64_t size = jobs.side * jobs.side, step = jobs.count() * size;
    const A* const from = partial + batch * jobs.slices * step + job * size +
                          i % jobs.side * jobs.side + j % jobs.side;
#pragma unroll 8
    for (int s = thread; s < jobs.slices; s += threads) sum += from[s * step];
  }
  sums[threadIdx.x] = sum;
  for (int half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) sums[threadIdx.x] += sums[threadIdx.x + half * kReduceEntries];
  }
  if (thread > 0 || entry >= entries) return;
  sum = sums[threadIdx.x];
  if (!cross)
    sum = sum * scale - (target ? target[(shape.targets == 1 ? 0 : batch) * entries + entry] : A{});
  out[matrix * entries + entry] = sum;
}

// weights = (S + S^T) / n and dtarget = -S, summed over the batch if all elements share one target.
template <typename A>
__global__ void __launch_bounds__(kThreads)
    backward_weights_kernel(const A* __restrict__ s,  // [B, C, C]
                            A* __restrict__ weights,  // [B, C, C]
                            A* __restrict__ dtarget,  // [targets, C, C]
                            GramShape shape, A scale) {
  const int64_t channels = shape.channels, entries = channels * channels;
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at >= shape.batch * entries) return;
  const int64_t batch = at / entries, entry = at % entries;
  const int64_t mirrored = batch * entries + entry % channels * channels + entry / channels;
  weights[at] = (s[at] + s[mirrored]) * scale;
  if (batch >= shape.targets) return;
  A sum = s[at];
  if (shape.targets == 1)
    for (int64_t b = 1; b < shape.batch; ++b) sum += s[b * entries + entry];
  dtarget[at] = -sum;
}

}  // namespace
}  // namespace fastfcs::cuda
