// The Gram matrix, its correction and the backward of the correction on CUDA; formulas in gram.h, the model behind the
// numbers below in docs/kernels.md. h is stored transposed, (channels, pixels): h^T g is a product over its rows.
//
//   correction   product_kernel (h once) -> reduce_kernel -> apply_kernel (h again, from L2 where it fits)
//   backward     product_kernel (h and g once) -> reduce_kernel -> backward_weights_kernel -> apply_kernel
#include <algorithm>
#include <initializer_list>
#include <type_traits>

#include "async_copy.h"
#include "kernels.h"
#include "streaming.h"
#include "warp_product.h"

namespace fastfcs::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kLanes;

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// The widest copies, in bytes, that these arrays of rows allow: 16, 4, or one element.
int copy_width(std::size_t row_bytes, std::initializer_list<const void*> arrays) {
  std::size_t bits = row_bytes;
  for (const void* array : arrays) bits |= reinterpret_cast<std::size_t>(array);
  return bits % 16 == 0 ? 16 : bits % 4 == 0 ? 4 : 2;
}

// to[i * kStride + p] = from[i][pixel + p], kRows rows of kPixels, zero from row `rows` and pixel `pixels` on; kWidth at
// a time
template <int kWidth, int kRows, int kPixels, int kStride, typename T>
__device__ __forceinline__ void copy_rows(T* to, const T* from, int rows, std::int64_t pixel, std::int64_t pixels) {
  constexpr unsigned kCopies = kPixels / kWidth, kEach = kRows * kCopies / kThreads;  // of a row, of a thread
  constexpr unsigned kPerRow = kCopies < kThreads ? 1 : kCopies / kThreads;
  constexpr unsigned kRowsAtOnce = kCopies < kThreads ? kThreads / kCopies : 1;
  static_assert(kRows * kCopies % kThreads == 0);
  const int row = threadIdx.x / kCopies, p = threadIdx.x % kCopies * kWidth;
  const std::int64_t left = pixels - pixel;
  from += row * pixels + pixel + p;  // may point beyond the array, where nothing is read
  to += row * kStride + p;
#pragma unroll(kEach < 8 ? kEach : 8)
  for (unsigned each = 0; each < kEach; ++each) {
    const int below = each / kPerRow * kRowsAtOnce, right = each % kPerRow * kThreads * kWidth;
    copy_async<kWidth * sizeof(T)>(to + below * kStride + right, from + right,
                                   row + below < rows && p + right < left);
    if (each % kPerRow == kPerRow - 1) from += kRowsAtOnce * pixels;
  }
}

template <int kRows, int kPixels, int kStride, typename T>
__device__ __forceinline__ void copy_tile(T* to, const T* from, int rows, std::int64_t pixel, std::int64_t pixels,
                                          int width) {
  if (width == 16) return copy_rows<16 / sizeof(T), kRows, kPixels, kStride>(to, from, rows, pixel, pixels);
  if constexpr (sizeof(T) == 2)
    if (width == 4) return copy_rows<2, kRows, kPixels, kStride>(to, from, rows, pixel, pixels);
  copy_rows<1, kRows, kPixels, kStride>(to, from, rows, pixel, pixels);
}

// ---------------------------------------------------------------------------------------------------------- product --

// What product_kernel computes: for every batch element and split of the pixels, the tiles of G on and above the
// diagonal and, if cross, all tiles of S = h^T g.
struct Jobs {
  int side, tiles, splits;
  bool cross;
  __host__ __device__ int pairs() const { return tiles * (tiles + 1) / 2; }
  __host__ __device__ int count() const { return pairs() + (cross ? tiles * tiles : 0); }
};

// A block's tile is kSide x kSide. Its four warps make 32 x 32 each (64), or all of it on a quarter of the pixels each
// (16, 32). C = 16 has its own: padded to 32 it would cost four times the multiply-adds.
template <typename T, int kSide>
struct Tiling {
  static constexpr int kWarpSide = kSide < 32 ? kSide : 32;
  static constexpr int kQuadrants = (kSide / kWarpSide) * (kSide / kWarpSide), kParts = kWarps / kQuadrants;
  static constexpr int kPixels = 8192 / sizeof(T) / kSide;  // of a stage: 8 KB an operand
  static constexpr int kStride = kPixels + kProductPad<T>;
  static constexpr int kSlots = 4, kSlot = kSide * kStride;  // operands held in shared memory
  static constexpr std::size_t kBytes = kSlots * kSlot * sizeof(T);
  using Product = WarpProduct<T, kWarpSide, kPixels / kParts, kStride>;
};

// partial[batch][split][job][i][j] = sum over the split's pixels p of h_i(p) h_j(p), or of h_i(p) g_j(p)
//
// A stage of 8 KB an operand is computed while the next three (where both operands are the same rows) or the next one
// are on their way: 24 or 16 KB a block, 72 or 48 KB a multiprocessor, more than the 30 KB that 4 TB/s at 1 us need.
// A split takes every splits-th stage, so that all blocks go through h together, from its beginning to its end, and
// tiles that share rows find them in L2. The splits are summed, in order, by reduce_kernel: no atomics.
// Bytes a pixel from device memory: 4 C in float32, 2 C in half types, twice that with g; from L2 as often as tiles.
template <typename T, typename A, int kSide>
__global__ void __launch_bounds__(kThreads, sizeof(A) == 8 ? 2 : 3)
    product_kernel(const T* __restrict__ h, const T* __restrict__ g, A* __restrict__ partial, Features shape, Jobs jobs,
                   int width) {
  using Tile = Tiling<T, kSide>;
  constexpr int kWarpSide = Tile::kWarpSide, kTerms = Tile::kParts * Tile::Product::kSlices;
  static_assert(kTerms * kSide * kSide * sizeof(A) <= Tile::kBytes);

  const int channels = static_cast<int>(shape.channels);
  const std::int64_t part = blockIdx.x / jobs.count(), batch = part / jobs.splits;
  const int split = static_cast<int>(part % jobs.splits);
  int job = blockIdx.x % jobs.count(), ti = 0, tj = 0;
  const bool cross = job >= jobs.pairs();
  if (cross) {
    ti = (job - jobs.pairs()) / jobs.tiles;
    tj = (job - jobs.pairs()) % jobs.tiles;
  } else {
    while ((tj + 1) * (tj + 2) / 2 <= job) ++tj;  // job = tj (tj + 1) / 2 + ti
    ti = job - tj * (tj + 1) / 2;
  }
  const int i0 = ti * kSide, j0 = tj * kSide;
  const bool same = !cross && ti == tj;
  const T* const rows = h + (batch * channels + i0) * shape.pixels;
  const T* const columns = (cross ? g : h) + (batch * channels + j0) * shape.pixels;

  T* const ring = shared_memory<T>();
  constexpr int kEnd = Tile::kSlots * Tile::kSlot;
  const int step = same ? Tile::kSlot : 2 * Tile::kSlot;  // from one stage's place in the ring to the next
  const auto after = [&](int place) { return place + step == kEnd ? 0 : place + step; };
  const std::int64_t stride = std::int64_t{jobs.splits} * Tile::kPixels;
  std::int64_t next = std::int64_t{split} * Tile::kPixels;  // first pixel of the stage that is loaded next
  const auto load = [&](int place) {
    if (next < shape.pixels) {
      T* const to = ring + place;
      copy_tile<kSide, Tile::kPixels, Tile::kStride>(to, rows, channels - i0, next, shape.pixels, width);
      if (!same)
        copy_tile<kSide, Tile::kPixels, Tile::kStride>(to + Tile::kSlot, columns, channels - j0, next, shape.pixels,
                                                       width);
    }
    next += stride;
    copy_commit();  // empty beyond the end, so that the number of groups behind a stage stays the same
  };

  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int quadrant = warp % Tile::kQuadrants, warp_part = warp / Tile::kQuadrants;
  constexpr int kAcross = kSide / kWarpSide;
  const int in_i = quadrant / kAcross * kWarpSide * Tile::kStride;
  const int in_j = quadrant % kAcross * kWarpSide * Tile::kStride;
  const int in_p = warp_part * (Tile::kPixels / Tile::kParts);

  typename Tile::Product product(lane);
  for (int place = 0; place < kEnd - step; place += step) load(place);
  int here = 0, free = kEnd - step;
  for (std::int64_t p = std::int64_t{split} * Tile::kPixels; p < shape.pixels; p += stride) {
    if (same)
      copy_wait<Tile::kSlots - 2>();
    else
      copy_wait<Tile::kSlots / 2 - 2>();
    __syncthreads();  // the stage is here for every thread, and every warp has done the one before
    load(free);       // into the place of that one
    const T* const a = ring + here + in_p;
    product.add(a + in_i, (same ? a : a + Tile::kSlot) + in_j);
    free = here;
    here = after(here);
  }
  copy_wait<0>();
  __syncthreads();

  A* const sums = shared_memory<A>();  // [part][slice][quadrant], or [quadrant] where there is one part and slice
  product.store(sums + (warp_part * Tile::Product::kSlices * Tile::kQuadrants + quadrant) * kWarpSide * kWarpSide);
  __syncthreads();
  A* const to = partial + (part * jobs.count() + job) * kSide * kSide;
  for (int at = threadIdx.x; at < kSide * kSide; at += kThreads) {
    const int i = at / kSide, j = at % kSide;
    const int quadrant_of = i / kWarpSide * kAcross + j / kWarpSide;
    const int from = (quadrant_of * kWarpSide + i % kWarpSide) * kWarpSide + j % kWarpSide;
    A sum{};
    FASTFCS_UNROLL
    for (int term = 0; term < kTerms; ++term) sum += sums[term * kSide * kSide + from];
    to[at] = sum;
  }
}

// out[0][b] = scale sum_split G's partial - target[b]     (target may be null, or one for all b)
// out[1][b] = sum_split S's partial, if there is one
//
// A block makes eight entries, 32 bytes of each partial sum. Each has `threads / 8` threads, a power of two, which take
// the splits in turn and add theirs in a tree. Below the diagonal G is read from above it, so it is exactly symmetric.
// Reads every partial sum once, from L2: for one G up to 6.5 MB in float32, 13 MB in half types above C = 32.
constexpr int kReduceEntries = 8, kReduceMost = 128;  // threads of an entry

template <typename A>
__global__ void __launch_bounds__(kReduceEntries* kReduceMost)
    reduce_kernel(const A* __restrict__ partial, const A* __restrict__ target, A* __restrict__ out, Features shape,
                  Jobs jobs, A scale) {
  A* const sums = shared_memory<A>();
  const int number = threadIdx.x / kReduceEntries, numbers = blockDim.x / kReduceEntries;
  const std::int64_t entries = shape.channels * shape.channels;
  const std::int64_t groups = (entries + kReduceEntries - 1) / kReduceEntries;
  const std::int64_t matrix = blockIdx.x / groups, batch = matrix % shape.batch;
  const bool cross = matrix >= shape.batch;
  const std::int64_t entry = blockIdx.x % groups * kReduceEntries + threadIdx.x % kReduceEntries;
  A sum{};
  if (entry < entries) {
    int i = static_cast<int>(entry / shape.channels), j = static_cast<int>(entry % shape.channels);
    if (!cross && i > j) {
      const int row = i;
      i = j;
      j = row;
    }
    const int ti = i / jobs.side, tj = j / jobs.side;
    const int job = cross ? jobs.pairs() + ti * jobs.tiles + tj : tj * (tj + 1) / 2 + ti;
    const std::int64_t size = jobs.side * jobs.side, step = jobs.count() * size;
    const A* const from =
        partial + batch * jobs.splits * step + job * size + i % jobs.side * jobs.side + j % jobs.side;
#pragma unroll 8
    for (int s = number; s < jobs.splits; s += numbers) sum += from[s * step];
  }
  sums[threadIdx.x] = sum;
  for (int half = numbers / 2; half > 0; half /= 2) {
    __syncthreads();
    if (number < half) sums[threadIdx.x] += sums[threadIdx.x + half * kReduceEntries];
  }
  if (number > 0 || entry >= entries) return;
  sum = sums[threadIdx.x];
  if (!cross) sum = sum * scale - (target ? target[(shape.targets == 1 ? 0 : batch) * entries + entry] : A{});
  out[matrix * entries + entry] = sum;
}

// weights = (S + S^T) / n, dtarget = -S, summed over the batch where one target serves it all.
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

// ------------------------------------------------------------------------------------------------------------ apply --

// out = f w_f + g w_g, out_c(p) = sum_k f_k(p) w_f[k][c] + sum_k g_k(p) w_g[k][c]; w_f is read as its transpose if
// told; g may be null. Weights and sums are of type A, and so are the arrays unless they are of half types.
template <typename T, typename A>
struct Terms {
  const T *f, *g;
  const A *w_f, *w_g;
  bool transposed;

  __device__ int count() const { return g ? 2 : 1; }
  __device__ const T* features(int term) const { return term ? g : f; }
  __device__ A weight(int term, std::int64_t batch, int channels, int k, int c) const {
    const bool swap = transposed && !term;
    const A* const from = (term ? w_g : w_f) + batch * channels * channels;
    return k < channels && c < channels ? from[swap ? c * channels + k : k * channels + c] : A{};
  }
};

// Where a block of an apply kernel works: tiles of channels follow one another, then batch elements, so that h is read
// once from device memory; pixels come last first, because L2 then still holds the end of h from product_kernel. A
// barrier across the grid in one launch would keep no more of it.
struct Place {
  int c0;
  std::int64_t batch, index;
  __device__ Place(const Features& shape, int side) {
    const unsigned tiles = static_cast<unsigned>((shape.channels + side - 1) / side);
    c0 = static_cast<int>(blockIdx.x % tiles) * side;
    batch = blockIdx.x / tiles % shape.batch;
    index = blockIdx.x / tiles / shape.batch;
  }
};

// out = f w_f + g w_g in true float32 (float64).
//
// A thread holds 16 bytes of neighbouring pixels of 16 outputs in registers. For each k it loads one value a pixel and
// reads 16 weights from shared memory, the same words in all lanes: five loads for 64 multiply-adds. Sixteen k are
// loaded at once: 8 KB a warp, 96 KB a multiprocessor. kSide / 16 warps share pixels, through the cache.
// Bytes a pixel, float32: h 4 C, read from L2 where it holds it, times ceil(C / 32) from L2; written 4 C.
constexpr int kChunk = 64;  // k's whose weights are in shared memory at a time
constexpr int kBatch = 16;  // k's loaded at a time

template <typename T, int kSide>
constexpr int kSpan = 16 / int(sizeof(T)) * kLanes * kWarps * 16 / kSide;  // pixels of a block

template <typename T, int kSide, bool kAligned>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 || !kAligned ? 2 : 3)
    apply_kernel(Terms<T, T> terms, T* __restrict__ out, Features shape) {
  constexpr int kPixels = 16 / sizeof(T), kOutputs = 16, kGroups = kSide / kOutputs;
  using Pixels = Vector<T, kPixels>;
  T* const tile = shared_memory<T>();  // [k][c]
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int channels = static_cast<int>(shape.channels);
  const Place place(shape, kSide);
  const int c0 = place.c0 + warp % kGroups * kOutputs;
  const std::int64_t spans = (shape.pixels + kSpan<T, kSide> - 1) / kSpan<T, kSide>;
  // The thread's pixels: neighbours, or where rows are not aligned every 32nd, so that a warp's loads are.
  constexpr int kStep = kAligned ? 1 : kLanes;
  const std::int64_t first = (spans - 1 - place.index) * kSpan<T, kSide> + warp / kGroups * (kPixels * kLanes) +
                             lane * (kAligned ? kPixels : 1);
  const int left = static_cast<int>(min(shape.pixels - first, std::int64_t{1024}));
  const auto inside = [&](int q) { return q * kStep < left; };
  // Where there is no pixel, one that exists is read and nothing is written: loads without a condition.
  const std::int64_t plane = place.batch * channels * shape.pixels;
  const std::int64_t read = inside(0) ? first : shape.pixels - (kAligned ? kPixels : 1);
  const int last = max(left - 1, 0);

  T sum[kPixels][kOutputs] = {};
  for (int term = 0; term < terms.count(); ++term) {
    for (int k0 = 0; k0 < channels; k0 += kChunk) {
      const int depth = (min(kChunk, channels - k0) + kBatch - 1) / kBatch * kBatch;
      __syncthreads();
      for (int i = threadIdx.x; i < depth * kSide; i += kThreads)
        tile[i] = terms.weight(term, place.batch, channels, k0 + i / kSide, place.c0 + i % kSide);
      __syncthreads();
      const T* at = terms.features(term) + plane + k0 * shape.pixels + read;
      const T* weights = tile + warp % kGroups * kOutputs;
#pragma unroll 1
      for (int k = 0; k < depth; k += kBatch, weights += kBatch * kSide) {
        Pixels value[kBatch];
        FASTFCS_UNROLL
        for (int b = 0; b < kBatch; ++b) {
          if constexpr (kAligned) {
            value[b] = load_once(reinterpret_cast<const Pixels*>(at));
          } else {
            FASTFCS_UNROLL
            for (int q = 0; q < kPixels; ++q) value[b].element[q] = at[min(q * kStep, last)];
          }
          if (b < channels - 1 - k0 - k) at += shape.pixels;  // the last k is read again, for weights that are zero
        }
        FASTFCS_UNROLL
        for (int b = 0; b < kBatch; ++b) {
          FASTFCS_UNROLL
          for (int c = 0; c < kOutputs; c += kPixels) {
            const Pixels weight = *reinterpret_cast<const Pixels*>(weights + b * kSide + c);
            FASTFCS_UNROLL
            for (int v = 0; v < kPixels; ++v) {
              FASTFCS_UNROLL
              for (int q = 0; q < kPixels; ++q) sum[q][c + v] += value[b].element[q] * weight.element[v];
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

// out = f w_f + g w_g for half types and TF32, on tensor cores.
//
// The weights are no half numbers: every column is scaled by a power of two, to less than 2 in size, and split
// into the sum of two half numbers. Their error is then 2^-22 (float16) or 2^-17 (bfloat16) of the column's largest
// weight, far below the rounding of the result, at twice the tensor cores' work. One half number would lose 2^-9 in
// bfloat16, and more of the result where the terms cancel. TF32 has one number, whose rounding was asked for.
//
// A step is kSide channels of a tile of pixels: it is multiplied while the next is on its way, 16 KB a block. Weights of
// all steps stay in shared memory where they fit (`held`), else each step reads its own again, from L2: as many bytes as
// the pixels (TF32: as 64 pixels have).
// Bytes a pixel, half types (TF32 twice as many): h 2 C, from L2 where it holds it, times ceil(C / 64) from L2; written
// 2 C.
template <typename T, int kSide>
struct TensorTiling {
  static constexpr int kPixels = 16384 / sizeof(T) / kSide, kStride = kPixels + 8;
  static constexpr int kOutputs = kSide < 32 ? kSide : 32, kWarpPixels = 4096 / sizeof(T) / kOutputs;  // of a warp
  using Product = WarpApply<T, kOutputs, kWarpPixels, kStride>;
  static constexpr int kTerm = kSide * kSide, kWeights = kTerm * Product::kTerms;  // weights of a step
  static constexpr std::size_t kTile = kSide * kStride * sizeof(T);                // bytes of h, and of results in its place
  static_assert(kWarps * 16 * Product::kPieceStride * sizeof(T) <= kTile);
  static std::size_t bytes(int held) { return 2 * kTile + held * kWeights * sizeof(T) + 2 * kSide * 4; }
};

constexpr int kTensorBlocks = 4;  // of a multiprocessor at most, whose registers they then fill

template <typename T>
__device__ T rounded(float value) {
  if constexpr (std::is_same_v<T, Tf32>)
    return T(as_float(rounded_to_tf32(value)));
  else
    return static_cast<T>(value);
}

template <typename T, int kSide>
__global__ void __launch_bounds__(kThreads, kTensorBlocks)
    apply_tensor_kernel(Terms<T, float> terms, T* __restrict__ out, Features shape, int shares, int held, int width) {
  using Tile = TensorTiling<T, kSide>;
  using Product = typename Tile::Product;
  T* const weights = shared_memory<T>();  // [held][term][fragment][lane][element]
  unsigned char* const ring = reinterpret_cast<unsigned char*>(weights + held * Tile::kWeights);  // two places
  float* const scales = reinterpret_cast<float*>(ring + 2 * Tile::kTile);
  float* const inverses = scales + kSide;
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int channels = static_cast<int>(shape.channels);
  const Place place(shape, kSide);
  const int chunks = (channels + kSide - 1) / kSide, steps = chunks * terms.count();
  const std::int64_t tiles = (shape.pixels + Tile::kPixels - 1) / Tile::kPixels;

  const auto load = [&](int to, std::int64_t tile, int step) {
    if (tile >= 0) {
      const int k0 = step % chunks * kSide;
      copy_tile<kSide, Tile::kPixels, Tile::kStride>(
          reinterpret_cast<T*>(ring + to * Tile::kTile),
          terms.features(step / chunks) + (place.batch * channels + k0) * shape.pixels, channels - k0,
          tile * Tile::kPixels, shape.pixels, width);
    }
    copy_commit();
  };
  load(0, tiles - 1 - place.index, 0);

  // scales[c] = 2^e, inverses[c] = 2^-e with max_k |w[k][c]| in [2^e, 2^(e+1))
  float* const largest = reinterpret_cast<float*>(ring + Tile::kTile);
  float most = 0;
  for (int term = 0; term < terms.count(); ++term)
    for (int k = threadIdx.x / kSide; k < channels; k += kThreads / kSide)
      most = fmaxf(most, fabsf(terms.weight(term, place.batch, channels, k, place.c0 + threadIdx.x % kSide)));
  largest[threadIdx.x] = most;
  __syncthreads();
  if (threadIdx.x < kSide) {
    for (int t = threadIdx.x; t < kThreads; t += kSide) most = fmaxf(most, largest[t]);
    const int exponent = most > 0 ? max(-100, min(100, ilogbf(most))) : 0;
    scales[threadIdx.x] = scalbnf(1.f, exponent);
    inverses[threadIdx.x] = scalbnf(1.f, -exponent);
  }
  __syncthreads();
  constexpr int kAcross = kSide / 16;  // fragments
  const auto split_weights = [&](int step) {
    T* const to = weights + (step < held ? step : 0) * Tile::kWeights;
    for (int i = threadIdx.x; i < Tile::kTerm / Product::kLaneWeights; i += kThreads) {
      const int k0 = step % chunks * kSide + i / kLanes / kAcross * Product::kFragmentDepth;
      const int c0 = i / kLanes % kAcross * 16;
      Vector<T, Product::kLaneWeights> high, low;
      FASTFCS_UNROLL
      for (int e = 0; e < Product::kLaneWeights; ++e) {
        const int k = k0 + Product::depth_of(i % kLanes, e), c = c0 + Product::output_of(i % kLanes, e);
        const float w = terms.weight(step / chunks, place.batch, channels, k, place.c0 + c) * inverses[c];
        high.element[e] = rounded<T>(w);
        low.element[e] = rounded<T>(w - static_cast<float>(high.element[e]));
      }
      auto* const at = reinterpret_cast<Vector<T, Product::kLaneWeights>*>(to) + i;
      *at = high;
      if constexpr (Product::kTerms == 2) at[Tile::kTerm / Product::kLaneWeights] = low;
    }
  };
  const bool all_held = held == steps;
  if (all_held)
    for (int step = 0; step < steps; ++step) split_weights(step);

  constexpr int kWarpsDown = kSide / Tile::kOutputs;
  const int warp_c = warp % kWarpsDown * Tile::kOutputs, warp_p = warp / kWarpsDown * Tile::kWarpPixels;
  int here = 0;  // place of the step that is multiplied
  for (std::int64_t t = tiles - 1 - place.index; t >= 0; t -= shares) {
    const std::int64_t p0 = t * Tile::kPixels;
    Product product(lane);
    for (int step = 0; step < steps; ++step, here ^= 1) {
      copy_wait<0>();
      __syncthreads();  // the step is here for every thread, and every warp has done the one before
      const bool last = step + 1 == steps;
      load(here ^ 1, last ? t - shares : t, last ? 0 : step + 1);
      if (!all_held) {
        split_weights(step);
        __syncthreads();
      }
      if (place.c0 + warp_c >= channels) continue;
      const T* const high = weights + (all_held ? step : 0) * Tile::kWeights + warp_c / 16 * Product::kFragment;
      product.template add<kAcross>(high, high + (Product::kTerms - 1) * Tile::kTerm,
                                    reinterpret_cast<const T*>(ring + here * Tile::kTile) + warp_p,
                                    min(kSide, channels - step % chunks * kSide));
    }
    __syncthreads();  // the last step's place is free: every warp puts its results there
    T* const results = reinterpret_cast<T*>(ring + (here ^ 1) * Tile::kTile) + warp * 16 * Product::kPieceStride;
    FASTFCS_UNROLL
    for (int piece = 0; piece < Product::kPieces; ++piece) {
      const int c0 = warp_c + Product::output(piece);
      product.store(piece, scales + c0, results);
      __syncwarp();
      const std::int64_t p = p0 + warp_p + Product::pixel(piece);
      T* const to = out + (place.batch * channels + place.c0 + c0) * shape.pixels + p;
      const int rows = min(16, channels - place.c0 - c0);
      if (width == 16) {
        constexpr int kVector = 16 / sizeof(T), kColumns = Product::kPiecePixels / kVector;
        for (int at = lane; at < rows * kColumns; at += kLanes) {
          const int c = at / kColumns, q = at % kColumns * kVector;
          if (p + q < shape.pixels)
            store_once(reinterpret_cast<Vector<T, kVector>*>(to + c * shape.pixels + q),
                       *reinterpret_cast<const Vector<T, kVector>*>(results + c * Product::kPieceStride + q));
        }
      } else {
        for (int c = 0; c < rows; ++c)
          for (int q = lane; q < Product::kPiecePixels && p + q < shape.pixels; q += kLanes)
            store_once(to + c * shape.pixels + q, results[c * Product::kPieceStride + q]);
      }
      __syncwarp();
    }
  }
}

// ------------------------------------------------------------------------------------------------------------- host --

// The side of a tile. Tensor cores want more products a byte than L2 gives to tiles of 32.
template <typename T>
constexpr int side_of(std::int64_t channels) {
  return channels <= 16 ? 16 : channels <= 32 || !kOnTensorCores<T> ? 32 : 64;
}

// Blocks of the product. Four times as many as run at once on a large GPU (132 multiprocessors, three blocks each),
// because their number is rounded down to a multiple of the jobs and the last ones to run leave multiprocessors idle.
#ifndef FASTFCS_GRAM_BLOCKS
#define FASTFCS_GRAM_BLOCKS 1584
#endif

// The pixels are split accordingly, into at least three parts, but no part has less than two stages; for tiles of side
// 64, whose partial sums are 16 KB each, into half as many. The same everywhere, so that every GPU gives the same bits.
template <typename T>
Jobs jobs_of(Features shape, bool cross) {
  const int side = side_of<T>(shape.channels);
  const std::int64_t stage_pixels = 8192 / sizeof(T) / side;
  Jobs jobs{side, static_cast<int>(divide_up(shape.channels, side)), 1, cross};
  const std::int64_t blocks = FASTFCS_GRAM_BLOCKS / (side == 64 ? 2 : 1);
  const std::int64_t each = std::max<std::int64_t>(1, shape.batch * jobs.count());
  jobs.splits = static_cast<int>(std::min(std::max<std::int64_t>(blocks / each, 3),
                                          std::max<std::int64_t>(1, divide_up(shape.pixels, 2 * stage_pixels))));
  return jobs;
}

// Bytes of shared memory up to which apply holds all weights. Results do not depend on it.
#ifndef FASTFCS_GRAM_SHARED
#define FASTFCS_GRAM_SHARED (104 * 1024)
#endif

std::int64_t entries_of(Features shape) { return shape.batch * shape.channels * shape.channels; }

// Elements of the partial sums of any T: the most splits are those of the shortest stages, of each size of tile.
std::int64_t partial_of(Features shape, bool cross) {
  const auto elements = [&](const Jobs& jobs) {
    return shape.batch * jobs.splits * jobs.count() * jobs.side * jobs.side;
  };
  return std::max({elements(jobs_of<float>(shape, cross)), elements(jobs_of<double>(shape, cross)),
                   elements(jobs_of<Half>(shape, cross)), elements(jobs_of<Tf32>(shape, cross))});
}

// kernels(std::integral_constant<int, side>{}) for the side of the tiles
template <typename T, typename Launch>
void with_side(Features shape, Launch launch_with) {
  switch (side_of<T>(shape.channels)) {
    case 16: return launch_with(std::integral_constant<int, 16>{});
    case 32: return launch_with(std::integral_constant<int, 32>{});
    default:
      if constexpr (kOnTensorCores<T>) launch_with(std::integral_constant<int, 64>{});
  }
}

// out = h^T h / n - target and, unless g is null, behind it h^T g, through the partial sums in workspace.
template <typename T, typename A>
void product(const T* h, const T* g, const A* target, A* out, A* workspace, Features shape, Stream stream) {
  if (entries_of(shape) == 0) return;
  const Jobs jobs = jobs_of<T>(shape, g != nullptr);
  const int width = copy_width(shape.pixels * sizeof(T), {h, g});
  with_side<T>(shape, [&](auto side) {
    launch("product_kernel", product_kernel<T, A, side>, shape.batch * jobs.splits * jobs.count(), kThreads,
           Tiling<T, side>::kBytes, stream, h, g, workspace, shape, jobs, width);
  });
  int numbers = 4;  // threads of an entry
  while (numbers < kReduceMost && numbers < jobs.splits) numbers *= 2;
  launch("reduce_kernel", reduce_kernel<A>,
         (g ? 2 : 1) * shape.batch * divide_up(shape.channels * shape.channels, kReduceEntries),
         numbers * kReduceEntries, numbers * kReduceEntries * sizeof(A), stream, workspace, target, out, shape, jobs,
         static_cast<A>(1.0 / shape.pixels));
}

template <typename T, typename A>
void apply(Terms<T, A> terms, T* out, Features shape, Stream stream) {
  if (entries_of(shape) == 0) return;
  const int width = copy_width(shape.pixels * sizeof(T), {terms.f, terms.g, out});
  with_side<T>(shape, [&](auto side) {
    const std::int64_t tiles = shape.batch * divide_up(shape.channels, side);
    if constexpr (kOnTensorCores<T>) {
      using Tile = TensorTiling<T, side>;
      const Device device = current_device();
      const std::int64_t steps = divide_up(shape.channels, side) * (terms.g ? 2 : 1);
      const std::size_t most = std::min<std::size_t>(FASTFCS_GRAM_SHARED, device.shared_of_block);
      const int held = Tile::bytes(static_cast<int>(steps)) <= most ? static_cast<int>(steps) : 1;
      const std::size_t bytes = Tile::bytes(held);
      // As many blocks as run at once; where tiles divide them badly, four times as many. No sum depends on it.
      const std::int64_t blocks = device.multiprocessors * std::clamp<std::int64_t>(device.shared / (bytes + 1024), 1, kTensorBlocks);
      const std::int64_t shares = std::clamp<std::int64_t>((8 * tiles > blocks ? 4 : 1) * blocks / tiles, 1,
                                                           divide_up(shape.pixels, Tile::kPixels));
      launch("apply_tensor_kernel", apply_tensor_kernel<T, side>, tiles * shares, kThreads, bytes, stream, terms, out,
             shape, static_cast<int>(shares), held, width);
    } else {
      launch("apply_kernel", width == 16 ? apply_kernel<T, side, true> : apply_kernel<T, side, false>,
             tiles * divide_up(shape.pixels, kSpan<T, side>), kThreads, kChunk * side * sizeof(T), stream, terms, out,
             shape);
    }
  });
}

}  // namespace

std::int64_t gram_workspace(Features shape) { return partial_of(shape, false); }

std::int64_t gram_correction_workspace(Features shape) { return partial_of(shape, false) + entries_of(shape); }

std::int64_t gram_correction_backward_workspace(Features shape) {
  return partial_of(shape, true) + 3 * entries_of(shape);
}

template <typename T, typename A>
void gram(const T* h, A* out, A* workspace, Features shape, Stream stream) {
  product<T, A>(h, nullptr, nullptr, out, workspace, shape, stream);
}

template <typename T, typename A>
void gram_correction(const T* h, const A* target, T* out, A* workspace, Features shape, Stream stream) {
  A* const difference = workspace + partial_of(shape, false);
  product<T, A>(h, nullptr, target, difference, workspace, shape, stream);
  apply<T, A>({h, nullptr, difference, nullptr, false}, out, shape, stream);
}

template <typename T, typename A>
void gram_correction_backward(const T* h, const A* target, const T* grad, T* dh, A* dtarget, A* workspace,
                              Features shape, Stream stream) {
  if (entries_of(shape) == 0) return;
  A* const difference = workspace + partial_of(shape, true);
  A* const s = difference + entries_of(shape);
  A* const weights = s + entries_of(shape);
  product(h, grad, target, difference, workspace, shape, stream);
  launch("backward_weights_kernel", backward_weights_kernel<A>, divide_up(entries_of(shape), kThreads), kThreads, 0,
         stream, s, weights, dtarget, shape, static_cast<A>(1.0 / shape.pixels));
  apply<T, A>({grad, h, difference, weights, true}, dh, shape, stream);
}

#define FASTFCS_INSTANTIATE(T, A)                                                                       \
  template void gram(const T*, A*, A*, Features, Stream);                                               \
  template void gram_correction(const T*, const A*, T*, A*, Features, Stream);                          \
  template void gram_correction_backward(const T*, const A*, const T*, T*, A*, A*, Features, Stream);
FASTFCS_INSTANTIATE(float, float)
FASTFCS_INSTANTIATE(double, double)
FASTFCS_INSTANTIATE(Half, float)
FASTFCS_INSTANTIATE(BFloat16, float)
FASTFCS_INSTANTIATE(Tf32, float)
#undef FASTFCS_INSTANTIATE

}  // namespace fastfcs::cuda
