// Products of thin matrices, C x n by n x C and n x C by C x C, of which the pixels are the rows.
//
// Pixels are read in chunks that fit into the L1 cache, converted if they are of a half type. Loops
// have no remainders: they read and multiply whole vectors and blocks, beyond the last channel and
// the last pixel of a chunk, and what comes of it is never used. Hence the slack of all buffers.
#include "gram_pixels_rows.h"

#include <type_traits>

#include "aligned.h"
#include "convert.h"

namespace fastfcs {
namespace FASTFCS_ISA {
namespace {

template <typename A>
constexpr int64_t kVector = FASTFCS_VECTOR / sizeof(A);

// A block of registers is kHeight rows of up to kWidth vectors: AVX-512 has 32 of them.
constexpr int kHeight = FASTFCS_VECTOR == 64 ? 8 : 4, kWidth = 3;

int64_t chunk_pixels(int64_t channels) {
  const int64_t most = 4096 / channels / kHeight * kHeight;
  return most < 32 ? 32 : most > 512 ? 512 : most;
}

// The number of elements from a chunk's beginning to the end of what the loops may read or write.
template <typename A>
int64_t size_with_slack(int64_t pixels, int64_t channels) {
  return round_up(pixels, kHeight) * channels + 2 * kVector<A>;
}

// Reads chunks of at most `pixels` pixels, in place if they are contiguous, need no conversion and
// have enough elements behind them.
template <typename T>
class PixelReader {
  using A = accumulate_t<T>;

 public:
  PixelReader(const PixelRows<const T>& x, int64_t pixels)
      : x_(x), size_(size_with_slack<A>(pixels, x.channels)), buffer_(size_) {
    std::memset(buffer_.get(), 0, size_ * sizeof(A));
  }

  const A* read(int64_t first, int64_t count) {
    const int64_t c = x_.channels;
    for (int64_t p = first; p < first + count;) {
      const int64_t row = p / x_.width, left = p % x_.width;
      const int64_t pixels = smaller(first + count - p, x_.width - left);
      const T* const from = x_.row(0, row) + left * c;
      if constexpr (std::is_same<T, A>::value) {
        const T* const end = x_.row(0, x_.height - 1) + x_.width * c;
        if (pixels == count && end - from >= size_with_slack<A>(count, c)) return from;
      }
      convert(from, buffer_.get() + (p - first) * c, pixels * c);
      p += pixels;
    }
    return buffer_.get();
  }

 private:
  const PixelRows<const T> x_;
  int64_t size_;
  AlignedBuffer<A> buffer_;
};

// Calls group(j, width) for groups of `width` vectors from column j on, which cover the channels.
// From right to left: a group may write beyond the last channel of a pixel, where the next pixel
// begins, and the leftmost group of that pixel is written later.
template <typename A, typename Group>
inline void for_each_group(int64_t channels, Group group) {
  int64_t vectors = (channels + kVector<A> - 1) / kVector<A>;
  for (; vectors >= kWidth; vectors -= kWidth)
    group((vectors - kWidth) * kVector<A>, std::integral_constant<int, kWidth>());
  if (vectors == 2) group(0, std::integral_constant<int, 2>());
  if (vectors == 1) group(0, std::integral_constant<int, 1>());
}

// sums[i] += sum_k a[i * a_row + k * a_step] b_k for vectors b_k[J] at b + k * b_step
template <int I, int J, typename V, typename A>
inline void add_products(const A* a, int64_t a_row, int64_t a_step, const A* b, int64_t b_step,
                         int64_t count, V (&sums)[I][J]) {
  for (int64_t k = 0; k < count; ++k, a += a_step, b += b_step) {
    V right[J];
    FASTFCS_UNROLL
    for (int j = 0; j < J; ++j) right[j] = load<V>(b + j * kVector<A>);
    FASTFCS_UNROLL
    for (int i = 0; i < I; ++i) {
      V left = a[i * a_row] - V{};
#ifdef __AVX512F__
      // Keeps `left` in a register. GCC would load it again for each of the J products, more often
      // than the load units allow.
      if (J > 1) asm("" : "+v"(left));
#endif
      FASTFCS_UNROLL
      for (int j = 0; j < J; ++j) sums[i][j] = sums[i][j] + left * right[j];
    }
  }
}

// to[i][j] += sum_p a_pi b_pj over a chunk; with `lower`, only for the vectors of j that do not lie
// above the diagonal.
template <typename A>
void add_chunk(const A* a, const A* b, int64_t channels, int64_t count, bool lower, A* to) {
  using V = typename VectorOf<A>::type;
  const int64_t pitch = padded_channels(channels);
  for_each_group<A>(channels, [&](int64_t j, auto width) {
    for (int64_t i = lower ? j / kHeight * kHeight : 0; i < channels; i += kHeight) {
      const auto block = [&](auto narrowed) {
        V sums[kHeight][narrowed] = {};
        add_products(a + i, 1, channels, b + j, channels, count, sums);
        FASTFCS_UNROLL
        for (int k = 0; k < kHeight; ++k) FASTFCS_UNROLL
        for (int v = 0; v < narrowed; ++v) {
          A* const sum = to + (i + k) * pitch + j + v * kVector<A>;
          store(sum, load<V>(sum) + sums[k][v]);
        }
      };
      const int64_t reached = i + kHeight - j;
      if (lower && reached <= kVector<A>)
        block(std::integral_constant<int, 1>());
      else if (width == 3 && lower && reached <= 2 * kVector<A>)
        block(std::integral_constant<int, 2>());
      else
        block(width);
    }
  });
}

// A matrix in the order in which it is read: for each group of vectors all rows, from column j on
// at j * channels.
template <typename A>
struct Panels {
  Panels(const A* matrix, int64_t channels)
      : buffer(matrix ? channels * round_up(channels, kVector<A>) : 0) {
    if (!matrix) return;
    std::memset(buffer.get(), 0, channels * round_up(channels, kVector<A>) * sizeof(A));
    for_each_group<A>(channels, [&](int64_t j, auto width) {
      const int64_t pitch = width * kVector<A>, count = smaller(pitch, channels - j);
      for (int64_t i = 0; i < channels; ++i)
        std::memcpy(buffer.get() + j * channels + i * pitch, matrix + i * channels + j,
                    count * sizeof(A));
    });
  }
  AlignedBuffer<A> buffer;
};

// to_p = sum_i x_pi w_i + sum_i y_pi v_i for a chunk, the second sum if y is not null.
// finish(p, j, sums) may change a block's sums, of pixels p... and columns j..., before they are
// stored.
template <typename A, typename Finish>
inline void combine(int64_t channels, int64_t count, const A* x, Panels<A>& w, const A* y,
                    Panels<A>& v, A* to, Finish finish) {
  using V = typename VectorOf<A>::type;
  for_each_group<A>(channels, [&](int64_t j, auto width) {
    const int64_t pitch = width * kVector<A>;
    for (int64_t p = 0; p < count; p += kHeight) {
      V sums[kHeight][width] = {};
      add_products(x + p * channels, channels, 1, w.buffer.get() + j * channels, pitch, channels,
                   sums);
      if (y)
        add_products(y + p * channels, channels, 1, v.buffer.get() + j * channels, pitch, channels,
                     sums);
#ifdef __x86_64__
      // Separate variables for GCC, which would otherwise keep some of the sums in memory during
      // the loops above because finish() needs registers.
      FASTFCS_UNROLL
      for (int i = 0; i < kHeight; ++i) FASTFCS_UNROLL
      for (int k = 0; k < width; ++k) {
        V value = sums[i][k];
        asm("" : "+v"(value));
        sums[i][k] = value;
      }
#endif
      finish(p, j, sums);
      FASTFCS_UNROLL
      for (int i = 0; i < kHeight; ++i) FASTFCS_UNROLL
      for (int k = 0; k < width; ++k)
        store(to + (p + i) * channels + j + k * kVector<A>, sums[i][k]);
    }
  });
}

constexpr auto kUnchanged = [](int64_t, int64_t, auto&) {};

// A pixel between the centres of two others.
template <typename A>
struct Between {
  int64_t first, second;
  A first_weight, second_weight;
};

// Where pixel i of `size` lies among `coarse` ones; as torch computes it.
template <typename A>
Between<A> position(int64_t i, int64_t size, int64_t coarse) {
  const A at = A(coarse) / A(size) * (A(i) + A(0.5)) - A(0.5);
  const A inside = at < 0 ? 0 : at;
  const int64_t first = smaller(int64_t(inside), coarse - 1);
  const A weight = inside - A(first);
  return {first, smaller(first + 1, coarse - 1), 1 - weight, weight};
}

// Rows of coarse features, interpolated vertically. Successive rows mostly lie between the same two
// of the coarse ones, which are converted once.
template <typename T>
class CoarseRows {
  using A = accumulate_t<T>;

 public:
  CoarseRows(const PixelRows<const T>& x, int64_t height)
      : x_(x),
        height_(height),
        size_(x.width * x.channels),
        stride_(round_up(size_ + 2 * kVector<A>, kVector<A>)),
        buffer_(3 * stride_) {
    std::memset(buffer_.get(), 0, 3 * stride_ * sizeof(A));
  }

  const A* row(int64_t y) {
    using V = typename VectorOf<A>::type;
    const Between<A> at = position<A>(y, height_, x_.height);
    const A *const first = converted(at.first), *const second = converted(at.second);
    A* const to = buffer_.get() + 2 * stride_;
    for (int64_t k = 0; k < size_; k += kVector<A>)
      store(to + k, at.first_weight * load<V>(first + k) + at.second_weight * load<V>(second + k));
    return to;
  }

 private:
  const A* converted(int64_t y) {
    A* const to = buffer_.get() + y % 2 * stride_;
    if (rows_[y % 2] != y) convert(x_.row(0, y), to, size_);
    rows_[y % 2] = y;
    return to;
  }

  const PixelRows<const T> x_;
  int64_t height_, size_, stride_;
  int64_t rows_[2] = {-1, -1};
  AlignedBuffer<A> buffer_;
};

}  // namespace

template <typename T>
void pixel_products(const PixelRows<const T>& h, const PixelRows<const T>& g, bool own,
                    int64_t first, int64_t last, accumulate_t<T>* sums) {
  using A = accumulate_t<T>;
  const int64_t c = h.channels, pitch = padded_channels(c), most = chunk_pixels(c);
  A* const cross = sums + (own ? pitch * pitch : 0);
  PixelReader<T> h_reader(h, most), g_reader(g, most);
  std::memset(sums, 0, (cross - sums + (g.data ? pitch * pitch : 0)) * sizeof(A));
  for (int64_t p = first; p < last; p += most) {
    const int64_t count = smaller(most, last - p);
    const A* const x = h_reader.read(p, count);
    if (own) add_chunk(x, x, c, count, true, sums);
    if (g.data) add_chunk(g_reader.read(p, count), x, c, count, false, cross);
  }
}

template <typename T>
void pixel_combination(const PixelRows<const T>& h, const PixelRows<const T>& g,
                       const accumulate_t<T>* weights, int64_t first, int64_t last, T* result) {
  using A = accumulate_t<T>;
  const int64_t c = h.channels, most = chunk_pixels(c);
  PixelReader<T> h_reader(h, most), g_reader(g, most);
  Panels<A> h_panels(weights, c), g_panels(g.data ? weights + c * c : nullptr, c);
  AlignedBuffer<A> values(size_with_slack<A>(most, c));
  for (int64_t p = first; p < last; p += most) {
    const int64_t count = smaller(most, last - p);
    const A* const x = h_reader.read(p, count);
    const A* const y = g.data ? g_reader.read(p, count) : nullptr;
    combine(c, count, x, h_panels, y, g_panels, values.get(), kUnchanged);
    convert(values.get(), result + p * c, count * c);
  }
}

template <typename T>
void level_rows(const PixelRows<const T>& h, const accumulate_t<T>* weights,
                const PixelRows<const T>& coarse, accumulate_t<T> slope, int64_t first,
                int64_t last, T* result) {
  using A = accumulate_t<T>;
  using V = typename VectorOf<A>::type;
  const int64_t c = h.channels, most = smaller(chunk_pixels(c), h.width), width = (h.width + 2) * c;
  PixelReader<T> reader(h, most);
  Panels<A> panels(weights, c);
  AlignedBuffer<A> values(size_with_slack<A>(most, c));
  CoarseRows<T> coarse_rows(coarse, h.height);
  const int64_t positions = coarse.data ? round_up(h.width, kHeight) + kHeight : 0;
  AlignedBuffer<Between<A>> between(positions);
  for (int64_t x = 0; x < positions; ++x)
    between.get()[x] = position<A>(smaller(x, h.width - 1), h.width, coarse.width);

  for (int64_t y = first; y < last; ++y) {
    T* const row = result + (y + 1) * width;
    const A* const enlarged = coarse.data ? coarse_rows.row(y) : nullptr;
    for (int64_t left = 0; left < h.width; left += most) {
      const int64_t count = smaller(most, h.width - left);
      const A* const x = reader.read(y * h.width + left, count);
      const auto add_coarse = [&](int64_t p, int64_t j, auto& sums) {
        FASTFCS_UNROLL
        for (int i = 0; i < kHeight; ++i) {
          const Between<A>& at = between.get()[left + p + i];
          const A *const a = enlarged + at.first * c + j, *const b = enlarged + at.second * c + j;
          const A* const by = x + (p + i) * c + j;
          FASTFCS_UNROLL
          for (int k = 0; k < int(sizeof(sums[0]) / sizeof(V)); ++k) {
            const int64_t v = k * kVector<A>;
            const V term = at.first_weight * load<V>(a + v) + at.second_weight * load<V>(b + v);
            sums[i][k] += load<V>(by + v) > 0 ? term : slope * term;
          }
        }
      };
      if (enlarged)
        combine<A>(c, count, x, panels, nullptr, panels, values.get(), add_coarse);
      else
        combine<A>(c, count, x, panels, nullptr, panels, values.get(), kUnchanged);
      convert(values.get(), row + (left + 1) * c, count * c);
    }
    std::memcpy(row, row + c, c * sizeof(T));
    std::memcpy(row + width - c, row + width - 2 * c, c * sizeof(T));
    if (y == 0) std::memcpy(row - width, row, width * sizeof(T));
    if (y == h.height - 1) std::memcpy(row + width, row, width * sizeof(T));
  }
}

#define FASTFCS_INSTANTIATE(T)                                                             \
  template void pixel_products(const PixelRows<const T>&, const PixelRows<const T>&, bool, \
                               int64_t, int64_t, accumulate_t<T>*);                        \
  template void pixel_combination(const PixelRows<const T>&, const PixelRows<const T>&,    \
                                  const accumulate_t<T>*, int64_t, int64_t, T*);           \
  template void level_rows(const PixelRows<const T>&, const accumulate_t<T>*,              \
                           const PixelRows<const T>&, accumulate_t<T>, int64_t, int64_t, T*);
FASTFCS_INSTANTIATE(float)
FASTFCS_INSTANTIATE(double)
FASTFCS_INSTANTIATE(Half)
FASTFCS_INSTANTIATE(BFloat16)
#undef FASTFCS_INSTANTIATE

}  // namespace FASTFCS_ISA
}  // namespace fastfcs
