// The passes between convolutions on CUDA: gates, means of cells, and their adjoints, in
// channels_last memory. The bound is memory traffic: every input is read once, every result written
// once. A thread computes up to 16 bytes of channels of one pixel or, in `halve`, of one cell.
#include <stdexcept>
#include <string>
#include <type_traits>

#include "kernels.h"
#include "pixel_rows.cuh"
#include "tile_copy.cuh"

namespace fastfcs::cuda {
namespace {

constexpr int kBlock = 256;  // threads
constexpr int kBlocks = 4;   // per multiprocessor at least: 32 KB in flight

// The number of vectors of channels in a row of pixels or cells, and of blocks that compute them.
struct RowVectors {
  unsigned count, blocks;
  __host__ __device__ RowVectors(int64_t channels, int width, int vector)
      : count(static_cast<unsigned>(channels / vector) * width),
        blocks(count / kBlock + (count % kBlock > 0)) {}
};

// The pixel, or cell, and the first channel of a thread. A block computes a part of a row.
// Neighbouring threads take neighbouring channels, then pixels.
struct Site {
  int64_t batch;
  int y, x, c;
  bool exists;

  __device__ Site(const FeatureShape& shape, int height, int width, int vector) {
    const RowVectors in_row(shape.channels, width, vector);
    const unsigned row = blockIdx.x / in_row.blocks, vectors = in_row.count / width;
    const unsigned at = blockIdx.x % in_row.blocks * kBlock + threadIdx.x;
    batch = row / height;
    y = static_cast<int>(row % height);
    x = static_cast<int>(at / vectors);
    c = static_cast<int>(at % vectors) * vector;
    exists = at < in_row.count;
  }
};

template <int kVector, typename T>
__device__ Vector<T, kVector> load(const PixelRows<T>& from, const Site& site, int y, int x,
                                   int64_t channels) {
  return *reinterpret_cast<const Vector<T, kVector>*>(from.data + site.batch * from.batch +
                                                      y * from.row + x * channels + site.c);
}

// sum += values
template <typename T, typename A, int kVector>
__device__ void add(A (&sum)[kVector], const Vector<T, kVector>& values) {
  FASTFCS_UNROLL
  for (int v = 0; v < kVector; ++v) sum[v] += static_cast<A>(values.element[v]);
}

// scale s(by) sum
template <typename T, typename A, int kVector>
__device__ Vector<T, kVector> gated(const A (&sum)[kVector], const Vector<T, kVector>& by, A slope,
                                    A scale) {
  Vector<T, kVector> result;
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
__global__ void __launch_bounds__(kBlock, kBlocks)
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
__global__ void __launch_bounds__(kBlock, kBlocks)
    gate_backward_kernel(PixelRows<T> grad, PixelRows<T> by, T* __restrict__ out /* [B, H, W, C] */,
                         FeatureShape shape, A slope) {
  const Site site(shape, shape.height, shape.width, kVector);
  if (!site.exists) return;
  const auto gates = load<kVector>(by, site, site.y, site.x, shape.channels);
  A sum[kVector] = {};
  add_copies(sum, grad, site, shape.height, shape.width, shape.channels);
  T* const to =
      out + ((site.batch * shape.height + site.y) * shape.width + site.x) * shape.channels;
  *reinterpret_cast<Vector<T, kVector>*>(to + site.c) = gated(sum, gates, slope, A(1));
}

template <typename T, typename A, int kVector>
__global__ void __launch_bounds__(kBlock, kBlocks)
    halve_kernel(PixelRows<T> x, PixelRows<T> by,
                 T* __restrict__ out /* [B, ceil(H/2)+2, ceil(W/2)+2, C] */, FeatureShape shape,
                 int height, int width /* of cells */, A slope) {
  const Site site(shape, height, width, kVector);
  if (!site.exists) return;
  const Cell cell(site, shape);
  Vector<T, kVector> values[4], gates[4];
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
  Vector<T, kVector> mean;
  FASTFCS_UNROLL
  for (int v = 0; v < kVector; ++v)
    mean.element[v] = static_cast<T>(sum[v] * cell.template share<A>());
  store_padded(padded(out, site, height, width, shape.channels), site.y, site.x, height, width,
               shape.channels, mean);
}

template <typename T, typename A, int kVector>
__global__ void __launch_bounds__(kBlock, kBlocks)
    halve_backward_kernel(PixelRows<T> grad, PixelRows<T> by,
                          T* __restrict__ out /* [B, H, W, C] */, FeatureShape shape, int height,
                          int width /* of cells */, A slope) {
  const Site site(shape, height, width, kVector);
  if (!site.exists) return;
  const Cell cell(site, shape);
  Vector<T, kVector> gates[4];
  FASTFCS_UNROLL
  for (int i = 0; i < 4; ++i)
    gates[i] = load<kVector>(by, site, cell.row(i), cell.column(i), shape.channels);
  A sum[kVector] = {};
  add_copies(sum, grad, site, height, width, shape.channels);
  T* const to = out + site.batch * shape.height * shape.width * shape.channels + site.c;
  FASTFCS_UNROLL
  for (int i = 0; i < 4; ++i)
    if (cell.has(i))
      *reinterpret_cast<Vector<T, kVector>*>(
          to + (int64_t{cell.row(i)} * shape.width + cell.column(i)) * shape.channels) =
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
  if (shape.channels * width > 2147483647)
    throw std::runtime_error(std::string("fastfcs: the rows are too long for ") + name);
  const int64_t rows = shape.batch * height;
  if (rows > 0)
    launch(name, kernel, rows * RowVectors(shape.channels, width, vector).blocks, kBlock, 0, stream,
           arguments...);
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
