// The Gram matrix, its correction, the backward pass of the correction and the gradient of a level
// on CUDA, host side. Formulas are in gram.h; docs/kernels.md has the performance model from which
// the constants follow. h is stored as [channels, pixels] or [pixels, channels].
//
//   correction   product_kernel (reads h) -> reduce_kernel -> apply_kernel (reads h again, from L2
//                where it fits)
//   backward     product_kernel (reads h and g) -> reduce_kernel -> backward_weights_kernel
//                -> apply_kernel (reads h and g)
//   level        apply_tiles_kernel (reads h)
#include <algorithm>
#include <type_traits>

#include "gram_apply.cuh"
#include "gram_product.cuh"
#include "kernels.h"
#include "tile_copy.cuh"

namespace fastfcs::cuda {
namespace {

// The side of a tile. Tensor cores need more products per byte than tiles of 32 get from L2.
template <typename T>
constexpr int side_of(int64_t channels) {
  return channels <= 16 ? 16 : channels <= 32 || !kOnTensorCores<T> ? 32 : 64;
}

// The target number of blocks of product_kernel: four times as many as run at once on a large GPU
// (132 multiprocessors, three blocks each). The actual number is rounded down to a multiple of the
// jobs, and the last blocks leave multiprocessors idle; with more blocks both matter less.
#ifndef FASTFCS_GRAM_BLOCKS
#define FASTFCS_GRAM_BLOCKS 1584
#endif

// Chooses the number of split-K slices to match the target number of blocks: at least three, but
// none shorter than two stages. Tiles of side 64, with partial sums of 16 KB each, get half as
// many. The number does not depend on the device, so that every GPU gives the same bits.
template <typename T>
TileJobs tile_jobs(GramShape shape, bool gram, bool cross) {
  const int side = side_of<T>(shape.channels);
  const int64_t stage_pixels = 8192 / sizeof(T) / side;
  TileJobs jobs{side, static_cast<int>(ceil_div(shape.channels, side)), 1, gram, cross};
  const int64_t blocks = FASTFCS_GRAM_BLOCKS / (side == 64 ? 2 : 1);
  const int64_t per_slice = std::max<int64_t>(1, shape.batch * jobs.count());
  jobs.slices =
      static_cast<int>(std::min(std::max<int64_t>(blocks / per_slice, 3),
                                std::max<int64_t>(1, ceil_div(shape.pixels, 2 * stage_pixels))));
  return jobs;
}

// The most shared memory, in bytes, that apply_tiles_kernel takes to hold all weights. Results do
// not depend on it.
#ifndef FASTFCS_GRAM_SHARED
#define FASTFCS_GRAM_SHARED (104 * 1024)
#endif

int64_t matrix_elements(GramShape shape) { return shape.batch * shape.channels * shape.channels; }

// The number of elements of the partial sums: the maximum over all T, whose stages and tiles
// differ.
int64_t partial_elements(GramShape shape, bool gram, bool cross) {
  const auto elements = [&](const TileJobs& jobs) {
    return shape.batch * jobs.slices * jobs.count() * jobs.side * jobs.side;
  };
  return std::max({elements(tile_jobs<float>(shape, gram, cross)),
                   elements(tile_jobs<double>(shape, gram, cross)),
                   elements(tile_jobs<Half>(shape, gram, cross)),
                   elements(tile_jobs<Tf32>(shape, gram, cross))});
}

// Calls launch_with(std::integral_constant<int, side>{}) for the side of the tiles.
template <typename T, typename Launch>
void with_side(GramShape shape, Launch launch_with) {
  switch (side_of<T>(shape.channels)) {
    case 16: return launch_with(std::integral_constant<int, 16>{});
    case 32: return launch_with(std::integral_constant<int, 32>{});
    default:
      if constexpr (kOnTensorCores<T>) launch_with(std::integral_constant<int, 64>{});
  }
}

template <Layout layout>
using LayoutConstant = std::integral_constant<Layout, layout>;

// Calls launch_with(LayoutConstant<layout>{}) for the layout of the features.
template <typename Launch>
void with_layout(GramShape shape, Launch launch_with) {
  if (shape.layout == Layout::channels_first)
    launch_with(LayoutConstant<Layout::channels_first>{});
  else
    launch_with(LayoutConstant<Layout::channels_last>{});
}

// The number of bytes from one row of features to the next.
template <typename T>
size_t row_bytes(GramShape shape) {
  return (shape.layout == Layout::channels_first ? shape.pixels : shape.channels) * sizeof(T);
}

// out[0] = h^T h / n - target, if `gram`, and then, unless g is null, h^T g, each [B, C, C].
template <typename T, typename A>
void launch_product(const T* h, const T* g, const A* target, A* out, A* workspace, GramShape shape,
                    bool gram, Stream stream) {
  if (matrix_elements(shape) == 0) return;
  const TileJobs jobs = tile_jobs<T>(shape, gram, g != nullptr);
  const int width = copy_width(row_bytes<T>(shape), {h, g});
  with_side<T>(shape, [&](auto side) {
    with_layout(shape, [&](auto layout) {
      launch("product_kernel", product_kernel<T, A, side, layout>,
             shape.batch * jobs.slices * jobs.count(), kThreads,
             ProductTiling<T, side, layout>::kBytes, stream, h, g, workspace, shape, jobs, width);
    });
  });
  int threads = 4;  // per entry
  while (threads < kReduceMaxThreads && threads < jobs.slices) threads *= 2;
  launch(
      "reduce_kernel", reduce_kernel<A>,
      (gram && g ? 2 : 1) * shape.batch * ceil_div(shape.channels * shape.channels, kReduceEntries),
      threads * kReduceEntries, threads * kReduceEntries * sizeof(A), stream, workspace, target,
      out, shape, jobs, static_cast<A>(1.0 / shape.pixels));
}

template <typename T, typename A, int kSide, Layout kLayout>
void launch_tiles(ApplyOperands<T, A> operands, ApplyResults<T, A> result, GramShape shape,
                  int width, Stream stream) {
  using Tile = ApplyTiling<T, A, kSide, kLayout>;
  const int64_t tiles = shape.batch * ceil_div(shape.channels, kSide);
  const Device device = current_device();
  const int steps = static_cast<int>(ceil_div(shape.channels, kSide) * (operands.g ? 2 : 1));
  const size_t most = std::min<size_t>(FASTFCS_GRAM_SHARED, device.shared_per_block);
  const int weight_slots = Tile::bytes(steps) <= most ? steps : 1;
  const size_t bytes = Tile::bytes(weight_slots);
  // As many blocks as run at once, or four times as many if the tiles divide them badly. No sum
  // depends on the number.
  const int64_t blocks = device.multiprocessors *
                         std::clamp<int64_t>(device.shared_per_multiprocessor / (bytes + 1024), 1,
                                             kApplyBlocks<kLayout>);
  const int64_t ctas_per_tile = std::clamp<int64_t>((8 * tiles > blocks ? 4 : 1) * blocks / tiles,
                                                    1, ceil_div(shape.pixels, Tile::kPixels));
  launch("apply_tiles_kernel", apply_tiles_kernel<T, A, kSide, kLayout>, tiles * ctas_per_tile,
         kThreads, bytes, stream, operands, result, shape, static_cast<int>(ctas_per_tile),
         weight_slots, width);
}

template <typename T, typename A>
void launch_apply(ApplyOperands<T, A> operands, ApplyResults<T, A> result, GramShape shape,
                  Stream stream) {
  if (matrix_elements(shape) == 0) return;
  const int width =
      copy_width(row_bytes<T>(shape), {operands.f, operands.g, result.out, result.coarse});
  with_side<T>(shape, [&](auto side) {
    with_layout(shape, [&](auto layout) {
      if constexpr (kOnTensorCores<T> || layout == Layout::channels_last)
        launch_tiles<T, A, side, layout>(operands, result, shape, width, stream);
      else
        launch("apply_kernel",
               width == 16 ? apply_kernel<T, side, true> : apply_kernel<T, side, false>,
               shape.batch * ceil_div(shape.channels, side) *
                   ceil_div(shape.pixels, kBlockPixels<T, side>),
               kThreads, kWeightRows * side * sizeof(T), stream, operands, result.out, shape);
    });
  });
}

}  // namespace

int64_t gram_workspace(GramShape shape) { return partial_elements(shape, true, false); }

int64_t cross_gram_workspace(GramShape shape) { return partial_elements(shape, false, true); }

int64_t gram_correction_workspace(GramShape shape) {
  return gram_workspace(shape) + matrix_elements(shape);
}

int64_t gram_correction_backward_workspace(GramShape shape) {
  return partial_elements(shape, true, true) + 3 * matrix_elements(shape);
}

template <typename T, typename A>
void gram(const T* h, A* out, A* workspace, GramShape shape, Stream stream) {
  launch_product<T, A>(h, nullptr, nullptr, out, workspace, shape, true, stream);
}

template <typename T, typename A>
void cross_gram(const T* h, const T* g, A* out, A* workspace, GramShape shape, Stream stream) {
  launch_product<T, A>(h, g, nullptr, out, workspace, shape, false, stream);
}

template <typename T, typename A>
void gram_correction(const T* h, const A* target, T* out, A* workspace, GramShape shape,
                     Stream stream) {
  A* const difference = workspace + gram_workspace(shape);  // G - H
  launch_product<T, A>(h, nullptr, target, difference, workspace, shape, true, stream);
  launch_apply<T, A>({h, nullptr, difference, nullptr, false, false}, {out}, shape, stream);
}

template <typename T, typename A>
void gram_correction_backward(const T* h, const A* target, const T* grad, T* dh, A* dtarget,
                              A* workspace, GramShape shape, Stream stream) {
  if (matrix_elements(shape) == 0) return;
  A* const difference = workspace + partial_elements(shape, true, true);  // G - H
  A* const s = difference + matrix_elements(shape);
  A* const weights = s + matrix_elements(shape);
  launch_product(h, grad, target, difference, workspace, shape, true, stream);
  launch("backward_weights_kernel", backward_weights_kernel<A>,
         ceil_div(matrix_elements(shape), kThreads), kThreads, 0, stream, s, weights, dtarget,
         shape, static_cast<A>(1.0 / shape.pixels));
  launch_apply<T, A>({grad, h, difference, weights, true, false}, {dh}, shape, stream);
}

template <typename T, typename A>
void level_gradient(const T* h, const A* weights, const T* coarse, T* out, FeatureShape shape,
                    int64_t matrices, double slope, Stream stream) {
  const auto scale = [](int pixels) {
    return static_cast<A>(halved(pixels)) / static_cast<A>(pixels);
  };
  const ApplyResults<T, A> result{out,
                                  shape.height,
                                  shape.width,
                                  coarse,
                                  static_cast<A>(slope),
                                  scale(shape.height),
                                  scale(shape.width)};
  const int64_t pixels = int64_t{shape.height} * shape.width;
  launch_apply<T, A>({h, nullptr, weights, nullptr, false, matrices == 1}, result,
                     {shape.batch, shape.channels, pixels, matrices, Layout::channels_last},
                     stream);
}

#define FASTFCS_INSTANTIATE(T, A)                                                               \
  template void gram(const T*, A*, A*, GramShape, Stream);                                      \
  template void cross_gram(const T*, const T*, A*, A*, GramShape, Stream);                      \
  template void gram_correction(const T*, const A*, T*, A*, GramShape, Stream);                 \
  template void gram_correction_backward(const T*, const A*, const T*, T*, A*, A*, GramShape,   \
                                         Stream);                                               \
  template void level_gradient(const T*, const A*, const T*, T*, FeatureShape, int64_t, double, \
                               Stream);
FASTFCS_INSTANTIATE(float, float)
FASTFCS_INSTANTIATE(double, double)
FASTFCS_INSTANTIATE(Half, float)
FASTFCS_INSTANTIATE(BFloat16, float)
FASTFCS_INSTANTIATE(Tf32, float)
#undef FASTFCS_INSTANTIATE

}  // namespace fastfcs::cuda
