// The passes between convolutions on CUDA: gates, means of cells, and their adjoints, in
// channels_last memory. The bound is memory traffic: every input is read once, every result written
// once. A thread computes up to 16 bytes of channels of one pixel or, in `halve`, of one cell.
#include <initializer_list>

#include "kernels.h"
#include "pixel_rows.cuh"
#include "tile_copy.cuh"

namespace fastfcs::cuda {
namespace {

constexpr int kBlock = 256;  // threads

template <typename T, int kVector>
using Channels = Vector<T, kVector>;

// The pixel, or cell, and the first channel of a thread. Neighbouring threads take neighbouring
// channels, then pixels.
struct Site {
  int64_t batch, c;
  int y, x;
  bool exists;

  __device__ Site(const FeatureShape& shape, int height, int width, int vector) {
    const int64_t vectors = shape.channels / vector;
    int64_t at = int64_t{blockIdx.x} * kBlock + threadIdx.x;
    c = at % vectors * vector;
    at /= vectors;
    x = static_cast<int>(at % width);
    at /= width;
    y = static_cast<int>(at % height);
    batch = at / height;
    exists = batch < shape.batch;
  }
};

template <int kVector, typename T>
__device__ Channels<T, kVector> load(const PixelRows<T>& from, const Site& site, int y, int x,
                                     int64_t channels) {
  return *reinterpret_cast<const Channels<T, kVector>*>(from.data + site.batch * from.batch +
                                                        y * from.row + x * channels + site.c);
}

// sum += values
template <typename T, typename A, int kVector>
__device__ void add(A (&sum)[kVector], const Channels<T, kVector>& values) {
  FASTFCS_UNROLL
  for (int v = 0; v < kVector; ++v) sum[v] += static_cast<A>(values.element[v]);
}

// scale s(by) sum
template <typename T, typename A, int kVector>
__device__ Channels<T, kVector> gated(const A (&sum)[kVector], const Channels<T, kVector>& by,
                                      A slope, A scale) {
  Channels<T, kVector> result;
  FASTFCS_UNROLL
  for (int v = 0; v < kVector; ++v)
    result.element[v] = static_cast<T>(gated(sum[v] * scale, by.element[v], slope));
  return result;
}

// The sum of the copies of pixel (y, x), of height x width, in the padded grad.
template <typename T, typename A, int kVector>
__device__ void add_copies(A (&sum)[kVector], const PixelRows<T>& grad, const Site& site,
                           int height, int width, int64_t channels) {
  const Copies rows(site.y, height), columns(site.x, width);
#pragma unroll 1
  for (int y = rows.first; y <= rows.last; ++y)
#pragma unroll 1
    for (int x = columns.first; x <= columns.last; ++x)
      add(sum, load<kVector>(grad, site, y, x, channels));
}

// The pixels of a cell: row y + i / 2, column x + i % 2. Those outside the image are clamped to
// valid ones for loads, so that loads need no condition, and count for nothing.
struct Cell {
  int y, x, rows, columns;

  __device__ Cell(const Site& site, const FeatureShape& shape)
      : y(2 * site.y),
        x(2 * site.x),
        rows(min(2, shape.height - y)),
        columns(min(2, shape.width - x)) {}
  __device__ bool has(int i) const { return i / 2 < rows && i % 2 < columns; }
  __device__ int row(int i) const { return y + min(i / 2, rows - 1); }
  __device__ int column(int i) const { return x + min(i % 2, columns - 1); }
  template <typename A>
  __device__ A share() const {
    return A(1) / static_cast<A>(rows * columns);
  }
};

// The first of a thread's channels in padded features.
template <typename T>
__device__ T* padded(T* out, const Site& site, int height, int width, int64_t channels) {
  return out + site.batch * (height + 2) * (width + 2) * channels + site.c;
}

template <typename T, typename A, int kVector>
__global__ void __launch_bounds__(kBlock)
    gate_kernel(PixelRows<T> x, PixelRows<T> by, T* __restrict__ out /* [B, H+2, W+2, C] */,
                FeatureShape shape, A slope) {
  const Site site(shape, shape.height, shape.width, kVector);
  if (!site.exists) return;
  const auto gates = load<kVector>(by, site, site.y, site.x, shape.channels);
  A sum[kVector] = {};
  add(sum, load<kVector>(x, site, site.y, site.x, shape.channels));
  store_padded(padded(out, site, shape.height, shape.width, shape.channels), site.y, site.x,
               shape.height, shape.width, shape.channels, gated(sum, gates, slope, A(1)));
}

template <typename T, typename A, int kVector>
__global__ void __launch_bounds__(kBlock)
    gate_backward_kernel(PixelRows<T> grad, PixelRows<T> by, T* __restrict__ out /* [B, H, W, C] */,
                         FeatureShape shape, A slope) {
  const Site site(shape, shape.height, shape.width, kVector);
  if (!site.exists) return;
  const auto gates = load<kVector>(by, site, site.y, site.x, shape.channels);
  A sum[kVector] = {};
  add_copies(sum, grad, site, shape.height, shape.width, shape.channels);
  T* const to =
      out + ((site.batch * shape.height + site.y) * shape.width + site.x) * shape.channels;
  *reinterpret_cast<Channels<T, kVector>*>(to + site.c) = gated(sum, gates, slope, A(1));
}

template <typename T, typename A, int kVector>
__global__ void __launch_bounds__(kBlock)
    halve_kernel(PixelRows<T> x, PixelRows<T> by,
                 T* __restrict__ out /* [B, ceil(H/2)+2, ceil(W/2)+2, C] */, FeatureShape shape,
                 int height, int width /* of cells */, A slope) {
  const Site site(shape, height, width, kVector);
  if (!site.exists) return;
  const Cell cell(site, shape);
  Channels<T, kVector> values[4], gates[4];
  FASTFCS_UNROLL
  for (int i = 0; i < 4; ++i) {
    values[i] = load<kVector>(x, site, cell.row(i), cell.column(i), shape.channels);
    gates[i] = load<kVector>(by, site, cell.row(i), cell.column(i), shape.channels);
  }
  A sum[kVector] = {};
  FASTFCS_UNROLL
  for (int i = 0; i < 4; ++i) {
    FASTFCS_UNROLL
    for (int v = 0; v < kVector; ++v)
      if (cell.has(i))
        sum[v] += gated(static_cast<A>(values[i].element[v]), gates[i].element[v], slope);
  }
  Channels<T, kVector> mean;
  FASTFCS_UNROLL
  for (int v = 0; v < kVector; ++v)
    mean.element[v] = static_cast<T>(sum[v] * cell.template share<A>());
  store_padded(padded(out, site, height, width, shape.channels), site.y, site.x, height, width,
               shape.channels, mean);
}

template <typename T, typename A, int kVector>
__global__ void __launch_bounds__(kBlock)
    halve_backward_kernel(PixelRows<T> grad, PixelRows<T> by,
                          T* __restrict__ out /* [B, H, W, C] */, FeatureShape shape, int height,
                          int width /* of cells */, A slope) {
  const Site site(shape, height, width, kVector);
  if (!site.exists) return;
  const Cell cell(site, shape);
  Channels<T, kVector> gates[4];
  FASTFCS_UNROLL
  for (int i = 0; i < 4; ++i)
    gates[i] = load<kVector>(by, site, cell.row(i), cell.column(i), shape.channels);
  A sum[kVector] = {};
  add_copies(sum, grad, site, height, width, shape.channels);
  T* const to = out + site.batch * shape.height * shape.width * shape.channels + site.c;
  FASTFCS_UNROLL
  for (int i = 0; i < 4; ++i)
    if (cell.has(i))
      *reinterpret_cast<Channels<T, kVector>*>(to + (cell.row(i) * shape.width + cell.column(i)) *
                                                        shape.channels) =
          gated(sum, gates[i], slope, cell.template share<A>());
}

// Calls launch_with(std::integral_constant<int, n>{}) for the widest vectors of n elements that the
// channels and the alignment of all arrays allow: 16 bytes, 4 bytes or one element.
template <typename T, typename Launch>
void with_vector(FeatureShape shape, const PixelRows<T>& x, const PixelRows<T>& by, const T* out,
                 Launch launch_with) {
  const size_t steps = (shape.channels | x.row | x.batch | by.row | by.batch) * sizeof(T);
  const int width = copy_width(steps, {x.data, by.data, out});
  if (width == 16) return launch_with(std::integral_constant<int, 16 / sizeof(T)>{});
  if constexpr (sizeof(T) == 2)
    if (width == 4) return launch_with(std::integral_constant<int, 2>{});
  launch_with(std::integral_constant<int, 1>{});
}

// Launches a kernel with one thread per vector of each of height x width pixels or cells.
template <typename... P, typename... Arguments>
void launch_sites(const char* name, void (*kernel)(P...), FeatureShape shape, int height, int width,
                  int vector, Stream stream, Arguments... arguments) {
  const int64_t sites = shape.batch * height * width * (shape.channels / vector);
  if (sites > 0) launch(name, kernel, ceil_div(sites, kBlock), kBlock, 0, stream, arguments...);
}

}  // namespace

template <typename T>
void gate(PixelRows<T> x, PixelRows<T> by, T* out, FeatureShape shape, double slope,
          Stream stream) {
  using A = accumulate_t<T>;
  with_vector(shape, x, by, out, [&](auto vector) {
    launch_sites("gate_kernel", gate_kernel<T, A, vector>, shape, shape.height, shape.width, vector,
                 stream, x, by, out, shape, static_cast<A>(slope));
  });
}

template <typename T>
void gate_backward(PixelRows<T> grad, PixelRows<T> by, T* out, FeatureShape shape, double slope,
                   Stream stream) {
  using A = accumulate_t<T>;
  with_vector(shape, grad, by, out, [&](auto vector) {
    launch_sites("gate_backward_kernel", gate_backward_kernel<T, A, vector>, shape, shape.height,
                 shape.width, vector, stream, grad, by, out, shape, static_cast<A>(slope));
  });
}

template <typename T>
void halve(PixelRows<T> x, PixelRows<T> by, T* out, FeatureShape shape, double slope,
           Stream stream) {
  using A = accumulate_t<T>;
  const int height = halved(shape.height), width = halved(shape.width);
  with_vector(shape, x, by, out, [&](auto vector) {
    launch_sites("halve_kernel", halve_kernel<T, A, vector>, shape, height, width, vector, stream,
                 x, by, out, shape, height, width, static_cast<A>(slope));
  });
}

template <typename T>
void halve_backward(PixelRows<T> grad, PixelRows<T> by, T* out, FeatureShape shape, double slope,
                    Stream stream) {
  using A = accumulate_t<T>;
  const int height = halved(shape.height), width = halved(shape.width);
  with_vector(shape, grad, by, out, [&](auto vector) {
    launch_sites("halve_backward_kernel", halve_backward_kernel<T, A, vector>, shape, height, width,
                 vector, stream, grad, by, out, shape, height, width, static_cast<A>(slope));
  });
}

#define FASTFCS_INSTANTIATE(T)                                                               \
  template void gate(PixelRows<T>, PixelRows<T>, T*, FeatureShape, double, Stream);          \
  template void gate_backward(PixelRows<T>, PixelRows<T>, T*, FeatureShape, double, Stream); \
  template void halve(PixelRows<T>, PixelRows<T>, T*, FeatureShape, double, Stream);         \
  template void halve_backward(PixelRows<T>, PixelRows<T>, T*, FeatureShape, double, Stream);
FASTFCS_INSTANTIATE(float)
FASTFCS_INSTANTIATE(double)
FASTFCS_INSTANTIATE(Half)
FASTFCS_INSTANTIATE(BFloat16)
#undef FASTFCS_INSTANTIATE

}  // namespace fastfcs::cuda
