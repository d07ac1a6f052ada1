#include "affine_rows.h"

#include <type_traits>
#ifdef __SSE2__
#include <immintrin.h>
#endif

#include "aligned.h"
#include "vector.h"

namespace fastfcs {
namespace FASTFCS_ISA {
namespace {

// Sums over windows of `count` quantities: down the columns of a row of windows first, then along
// it. Sums in double need no running differences, so that no error accumulates.
class WindowSums {
  static constexpr int64_t kStep = sizeof(DoubleVector) / sizeof(double);

 public:
  WindowSums(int64_t count, int64_t width, int64_t radius)
      : radius_(radius),
        pitch_(round_up(width + 2 * radius + kStep, kStep)),
        buffer_(count * pitch_),
        columns_(buffer_.get()) {
    for (int64_t i = 0; i < count * pitch_; ++i) columns_[i] = 0;
  }

  double* column(int64_t k, int64_t x) { return columns_ + k * pitch_ + radius_ + x; }

  template <typename V>
  V sum(int64_t k, int64_t x) {
    const double* const from = columns_ + k * pitch_ + x;
    V total = load<V>(from);
    for (int64_t i = 1; i <= 2 * radius_; ++i) total = total + load<V>(from + i);
    return total;
  }

 private:
  int64_t radius_, pitch_;
  AlignedBuffer<double> buffer_;
  double* columns_;
};

// Calls f(V(), x) for vectors of the pixels x of a row, and for single ones at its end.
template <typename F>
inline void for_each_vector(int64_t width, F f) {
  constexpr int64_t step = sizeof(DoubleVector) / sizeof(double);
  int64_t x = 0;
  for (; x + step <= width; x += step) f(DoubleVector(), x);
  for (; x < width; ++x) f(double(), x);
}

struct Range {
  int64_t first, last;
};

// The pixels of a window around `at`, without those beyond the border.
inline Range window(int64_t at, int64_t radius, int64_t size) {
  return {at > radius ? at - radius : 0, smaller(at + radius + 1, size)};
}

// One over the number of pixels of the window around (y, x), for a vector of x.
template <typename V>
inline V share(int64_t rows, int64_t x, int64_t radius, int64_t width) {
  double values[sizeof(V) / sizeof(double)];
  for (int64_t i = 0; i < int64_t(sizeof(V) / sizeof(double)); ++i) {
    const Range columns = window(x + i, radius, width);
    values[i] = 1.0 / double(rows * (columns.last - columns.first));
  }
  return load<V>(values);
}

// Conversion of a vector of pixels to floats, and back. Rows of pixels with interleaved channels
// are taken apart into channels.
constexpr int64_t kFloats = sizeof(FloatVector) / sizeof(float);

#ifdef __AVX512F__
// Element i of the result is element index[i] of three vectors.
inline FloatVector pick(const FloatVector (&from)[3], __m512i first, __m512i second,
                        __mmask16 third) {
  const __m512 two = _mm512_permutex2var_ps(__m512(from[0]), first, __m512(from[1]));
  return FloatVector(_mm512_mask_permutexvar_ps(two, third, second, __m512(from[2])));
}

// Elements 3 i + c of three vectors, and their inverse. Masks are constants of the compiler.
inline void take_apart(const FloatVector (&from)[3], FloatVector (&to)[3]) {
  alignas(64) static constexpr int32_t first[3][16] = {
      {0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 0, 0, 0, 0, 0},
      {1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 0, 0, 0, 0, 0},
      {2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 0, 0, 0, 0, 0, 0}};
  alignas(64) static constexpr int32_t second[3][16] = {
      {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 4, 7, 10, 13},
      {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 5, 8, 11, 14},
      {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 6, 9, 12, 15}};
  static constexpr __mmask16 third[3] = {0xf800, 0xf800, 0xfc00};
  for (int c = 0; c < 3; ++c)
    to[c] = pick(from, _mm512_load_si512(first[c]), _mm512_load_si512(second[c]), third[c]);
}

inline void put_together(const FloatVector (&from)[3], FloatVector (&to)[3]) {
  // Element e belongs to channel e % 3 of pixel e / 3.
  alignas(64) static constexpr int32_t first[3][16] = {
      {0, 16, 0, 1, 17, 0, 2, 18, 0, 3, 19, 0, 4, 20, 0, 5},
      {21, 0, 6, 22, 0, 7, 23, 0, 8, 24, 0, 9, 25, 0, 10, 26},
      {0, 11, 27, 0, 12, 28, 0, 13, 29, 0, 14, 30, 0, 15, 31, 0}};
  alignas(64) static constexpr int32_t second[3][16] = {
      {0, 0, 0, 0, 0, 1, 0, 0, 2, 0, 0, 3, 0, 0, 4, 0},
      {0, 5, 0, 0, 6, 0, 0, 7, 0, 0, 8, 0, 0, 9, 0, 0},
      {10, 0, 0, 11, 0, 0, 12, 0, 0, 13, 0, 0, 14, 0, 0, 15}};
  static constexpr __mmask16 third[3] = {0x4924, 0x2492, 0x9249};
  for (int c = 0; c < 3; ++c)
    to[c] = pick(from, _mm512_load_si512(first[c]), _mm512_load_si512(second[c]), third[c]);
}
#endif

template <typename V>
inline void take_apart(const V (&from)[3], V (&to)[3]) {
  using A = std::remove_reference_t<decltype(V()[0])>;
  constexpr int64_t lanes = sizeof(V) / sizeof(A);
  A values[3 * lanes], channel[lanes];
  std::memcpy(values, from, sizeof values);
  for (int c = 0; c < 3; ++c) {
    for (int64_t i = 0; i < lanes; ++i) channel[i] = values[3 * i + c];
    to[c] = load<V>(channel);
  }
}

template <typename V>
inline void put_together(const V (&from)[3], V (&to)[3]) {
  using A = std::remove_reference_t<decltype(V()[0])>;
  constexpr int64_t lanes = sizeof(V) / sizeof(A);
  A values[3 * lanes], channels[3][lanes];
  std::memcpy(channels, from, sizeof channels);
  for (int64_t i = 0; i < lanes; ++i)
    for (int c = 0; c < 3; ++c) values[3 * i + c] = channels[c][i];
  std::memcpy(to, values, sizeof values);
}

// T is the type of samples, A that of the arithmetic, V a vector of A. GCC converts vectors of small
// integers one by one, hence the intrinsics.
template <typename V, typename A, typename T>
inline V load_samples(const T* from) {
  if constexpr (std::is_same<T, A>::value) {
    return load<V>(from);
  } else {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 1)
      return V(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load<__m128i>(from))));
    else
      return V(_mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(load<__m256i>(from))));
#elif defined(__AVX2__)
    if constexpr (sizeof(T) == 1)
      return V(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)from))));
    else
      return V(_mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(load<__m128i>(from))));
#else
    A values[sizeof(V) / sizeof(A)];
    for (size_t i = 0; i < sizeof(V) / sizeof(A); ++i) values[i] = A(from[i]);
    return load<V>(values);
#endif
  }
}

template <typename A, typename V, typename T>
inline void store_samples(T* to, V value) {
  if constexpr (std::is_same<T, A>::value) {
    store(to, value);
  } else {
#if defined(__AVX512F__)
    const __m512i whole = _mm512_cvtps_epi32(__m512(value));
    if constexpr (sizeof(T) == 1)
      store(to, _mm512_cvtusepi32_epi8(whole));
    else
      store(to, _mm512_cvtusepi32_epi16(whole));
#elif defined(__AVX2__)
    const __m256i whole = _mm256_cvtps_epi32(__m256(value));
    const __m128i low = _mm256_castsi256_si128(whole), high = _mm256_extracti128_si256(whole, 1);
    const __m128i words = _mm_packus_epi32(low, high);
    if constexpr (sizeof(T) == 1)
      _mm_storel_epi64((__m128i*)to, _mm_packus_epi16(words, words));
    else
      store(to, words);
#else
    A values[sizeof(V) / sizeof(A)];
    store(values, value);
    for (size_t i = 0; i < sizeof(V) / sizeof(A); ++i) to[i] = T(values[i] + A(0.5));
#endif
  }
}

typedef int32_t IntVector __attribute__((vector_size(FASTFCS_VECTOR)));

// Whether a < b anywhere.
inline bool any_less(FloatVector a, FloatVector b) {
#ifdef __AVX512F__
  return _mm512_cmp_ps_mask(__m512(a), __m512(b), _CMP_LT_OQ);
#else
  int32_t values[kFloats], found = 0;
  store(values, a < b);
  for (int32_t value : values) found |= value;
  return found;
#endif
}

// exp(z) for z <= 0, with a relative error below 1e-6; 0 is as good below -80.
inline FloatVector exponential(FloatVector z) {
  const FloatVector y = (z > -80 ? z : z * 0 - 80) * 1.44269504f;
  const IntVector whole = __builtin_convertvector(y, IntVector);  // towards 0
  const FloatVector f = (y - __builtin_convertvector(whole, FloatVector)) * 0.69314718f;
  FloatVector p = f * (1.0f / 720) + 1.0f / 120;
  p = ((((p * f + 1.0f / 24) * f + 1.0f / 6) * f + 0.5f) * f + 1) * f + 1;
  FloatVector power;
  const IntVector bits = (whole + 127) << 23;
  std::memcpy(&power, &bits, sizeof bits);
  return p * power;
}

// Bends a sample v away from 0, where it lies below a quarter of the content's.
inline FloatVector lifted(FloatVector v, FloatVector content, float tiny) {
  const FloatVector m = kToe * content;
  if (!any_less(v, m)) return v;
  const FloatVector u = v / (m > tiny ? m : m * 0 + tiny) - 1;
  const FloatVector curve = m * exponential(u < 0 ? u : u * 0);
  return v > curve ? v : curve;
}

// Bends samples v into [0, most] by the content's values.
inline void soft_clip(FloatVector (&v)[3], const FloatVector (&content)[3], float most) {
  for (int c = 0; c < 3; ++c) {
    v[c] = lifted(v[c], content[c], 1e-6f * most);
    v[c] = most - lifted(most - v[c], most - content[c], 1e-6f * most);
  }
}

// Reads elements at[i] and at[i] + 1 of a row, where `at` ascends.
template <typename V>
class Neighbours {
  using A = std::remove_reference_t<decltype(V()[0])>;
  static constexpr int64_t kLanes = sizeof(V) / sizeof(A);

 public:
  explicit Neighbours(const int32_t* at) : at_(at), base_(at[0]) {
    in_vector_ = sizeof(A) == sizeof(float) && at[kLanes - 1] + 1 - base_ < kLanes;
    if (!in_vector_) return;
#if defined(__AVX512F__)
    index_ = _mm512_sub_epi32(load<__m512i>(at), _mm512_set1_epi32(base_));
    next_ = _mm512_add_epi32(index_, _mm512_set1_epi32(1));
#elif defined(__AVX2__)
    index_ = _mm256_sub_epi32(load<__m256i>(at), _mm256_set1_epi32(base_));
    next_ = _mm256_add_epi32(index_, _mm256_set1_epi32(1));
#endif
  }

  void read(const A* row, V& a, V& b) const {
#if defined(__AVX512F__)
    if (in_vector_) {
      const __m512 values = load<__m512>(row + base_);
      a = V(_mm512_permutexvar_ps(index_, values));
      b = V(_mm512_permutexvar_ps(next_, values));
      return;
    }
#elif defined(__AVX2__)
    if (in_vector_) {
      const __m256 values = load<__m256>(row + base_);
      a = V(_mm256_permutevar8x32_ps(values, index_));
      b = V(_mm256_permutevar8x32_ps(values, next_));
      return;
    }
#endif
    A first[kLanes], second[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) {
      first[i] = row[at_[i]];
      second[i] = row[at_[i] + 1];
    }
    a = load<V>(first);
    b = load<V>(second);
  }

 private:
  const int32_t* at_;
  int32_t base_;
  bool in_vector_;
#if defined(__AVX512F__)
  __m512i index_, next_;
#elif defined(__AVX2__)
  __m256i index_, next_;
#endif
};

// Two rows of models, between which rows of the image lie, enlarged along the row.
template <typename T>
class Strip {
 public:
  using A = accumulate_t<T>;
  using V = typename VectorOf<A>::type;
  static constexpr int64_t kLanes = sizeof(V) / sizeof(A);
  static constexpr int64_t kVectors = 64 / kLanes;  // 12 KB of models at a time

  explicit Strip(const ApplyArguments<T>& x)
      : x_(x),
        pitch_(x.columns + kLanes + 1),
        rows_(2 * kModel * pitch_),
        first_(round_up(x.width, kVectors * kLanes)),
        weight_(round_up(x.width, kVectors * kLanes)),
        enlarged_(2 * kModel * kVectors * kLanes) {
    for (int64_t i = 0; i < round_up(x.width, kVectors * kLanes); ++i) {
      const Between at = between(smaller(i, x.width - 1), x.columns, x.width);
      first_.get()[i] = int32_t(at.first);
      weight_.get()[i] = A(at.weight);
    }
  }

  // Rows [first, last) of the image, all between rows `upper` and `lower` of the models.
  void run(int64_t upper, int64_t lower, int64_t first, int64_t last) {
    read(upper, lower);
    for (int64_t x = 0; x < x_.width; x += kVectors * kLanes) {
      enlarge(x);
      const int64_t stop = smaller(x_.width, x + kVectors * kLanes);
      for (int64_t y = first; y < last; ++y) {
        const A t = A(between(y, x_.rows, x_.height).weight);
        const T* const from = x_.image + y * x_.width * x_.pixel;
        T* const to = x_.result + y * x_.width * x_.pixel;
        for (int64_t at = x; at < stop; at += kLanes)
          apply_some(from + at * x_.pixel, to + at * x_.pixel, smaller(kLanes, stop - at),
                enlarged_.get() + (at - x) * 2 * kModel, t);
      }
    }
  }

 private:
  // Integer samples have models in units of samples.
  static constexpr bool kIntegers = !std::is_same<T, A>::value;
  static constexpr A kMost = kIntegers ? A(T(-1)) : A(1);

  // Row `upper` of the models, and its difference to row `lower`. The last is repeated.
  void read(int64_t upper, int64_t lower) {
    for (int64_t k = 0; k < kModel; ++k) {
      const A* const plane = x_.models + k * x_.rows * x_.columns;
      const A *const a = plane + upper * x_.columns, *const b = plane + lower * x_.columns;
      A *const to = rows_.get() + k * pitch_, *const difference = to + kModel * pitch_;
      const A scale = k % 4 == 3 ? kMost : A(1);
      for (int64_t i = 0; i < x_.columns; ++i) {
        to[i] = scale * a[i];
        difference[i] = scale * (b[i] - a[i]);
      }
      for (int64_t i = x_.columns; i < pitch_; ++i) {
        to[i] = to[x_.columns - 1];
        difference[i] = difference[x_.columns - 1];
      }
    }
  }

  // Both for the pixels from x on, [vectors, 2 kModel, lanes].
  void enlarge(int64_t x) {
    for (int64_t v = 0; v < kVectors; ++v) {
      const Neighbours<V> at(first_.get() + x + v * kLanes);
      const V weight = load<V>(weight_.get() + x + v * kLanes);
      A* const to = enlarged_.get() + v * 2 * kModel * kLanes;
      const A* const from = rows_.get();
      for (int64_t k = 0; k < 2 * kModel; ++k) {
        V a, b;
        at.read(from + k * pitch_, a, b);
        store(to + k * kLanes, V(a + weight * (b - a)));
      }
    }
  }

  // `count` pixels, at most a vector of them.
  void apply_some(const T* from, T* to, int64_t count, const A* models, A t) const {
    if (count == kLanes) return apply(from, to, x_.channel, models, t);
    T values[3 * kLanes] = {}, results[3 * kLanes];
    const int64_t pixel = x_.pixel, channel = pixel == 1 ? kLanes : 1;
    for (int64_t i = 0; i < count; ++i)
      for (int c = 0; c < 3; ++c)
        values[i * pixel + c * channel] = from[i * pixel + c * x_.channel];
    apply(values, results, channel, models, t);
    for (int64_t i = 0; i < count; ++i)
      for (int c = 0; c < 3; ++c)
        to[i * pixel + c * x_.channel] = results[i * pixel + c * channel];
  }

  void apply(const T* from, T* to, int64_t channel, const A* models, A t) const {
    const bool interleaved = x_.pixel != 1;
    const int64_t step = interleaved ? kLanes : channel;
    V values[3], colour[3], result[3];
    for (int c = 0; c < 3; ++c) values[c] = load_samples<V, A>(from + c * step);
    if (interleaved)
      take_apart(values, colour);
    else
      for (int c = 0; c < 3; ++c) colour[c] = values[c];
    const auto coefficient = [&](int k) {
      return load<V>(models + k * kLanes) + t * load<V>(models + (kModel + k) * kLanes);
    };
    for (int c = 0; c < 3; ++c) {
      V sum = coefficient(4 * c + 3);
      for (int d = 0; d < 3; ++d) sum = sum + coefficient(4 * c + d) * colour[d];
      result[c] = sum;
    }
    if constexpr (kIntegers) soft_clip(result, colour, kMost);
    if (interleaved)
      put_together(result, values);
    else
      for (int c = 0; c < 3; ++c) values[c] = result[c];
    for (int c = 0; c < 3; ++c) store_samples<A>(to + c * step, values[c]);
  }

  const ApplyArguments<T>& x_;
  int64_t pitch_;
  AlignedBuffer<A> rows_;
  AlignedBuffer<int32_t> first_;
  AlignedBuffer<A> weight_;
  AlignedBuffer<A> enlarged_;
};

}  // namespace

template <typename T>
void window_rows(const FitArguments<T>& x, int64_t first, int64_t last) {
  const int64_t plane = x.height * x.width;
  WindowSums sums(kMoments, x.width, x.radius);
  for (int64_t y = first; y < last; ++y) {
    const Range rows = window(y, x.radius, x.height);
    for_each_vector(x.width, [&](auto v, int64_t at) {
      using V = decltype(v);
      V total[kMoments] = {};
      for (int64_t row = rows.first; row < rows.last; ++row) {
        V i[3], p[3];
        for (int c = 0; c < 3; ++c) {
          i[c] = load_as<V>(x.guide + c * plane + row * x.width + at);
          p[c] = load_as<V>(x.signal + c * plane + row * x.width + at);
        }
        for_each_moment(i, p, [&](int k, V value) { total[k] = total[k] + value; });
      }
      for (int k = 0; k < kMoments; ++k) store(sums.column(k, at), total[k]);
    });
    for_each_vector(x.width, [&](auto v, int64_t at) {
      using V = decltype(v);
      const V scale = share<V>(rows.last - rows.first, at, x.radius, x.width);
      V mean[kMoments], model[kModel];
      for (int k = 0; k < kMoments; ++k) mean[k] = scale * sums.sum<V>(k, at);
      fit_model(mean, x.eps, model);
      for (int k = 0; k < kModel; ++k)
        store_as(x.windows + k * plane + y * x.width + at, model[k]);
    });
  }
}

template <typename T>
void model_rows(const FitArguments<T>& x, int64_t first, int64_t last) {
  const int64_t plane = x.height * x.width;
  WindowSums sums(kModel, x.width, x.radius);
  for (int64_t y = first; y < last; ++y) {
    const Range rows = window(y, x.radius, x.height);
    for_each_vector(x.width, [&](auto v, int64_t at) {
      using V = decltype(v);
      for (int k = 0; k < kModel; ++k) {
        V total = {};
        for (int64_t row = rows.first; row < rows.last; ++row)
          total = total + load_as<V>(x.windows + k * plane + row * x.width + at);
        store(sums.column(k, at), total);
      }
    });
    for_each_vector(x.width, [&](auto v, int64_t at) {
      using V = decltype(v);
      const V scale = share<V>(rows.last - rows.first, at, x.radius, x.width);
      for (int k = 0; k < kModel; ++k)
        store_as(x.models + k * plane + y * x.width + at, V(scale * sums.sum<V>(k, at)));
    });
  }
}

template <typename T>
void affine_rows(const ApplyArguments<T>& x, int64_t first, int64_t last) {
  Strip<T> strip(x);
  while (first < last) {
    const Between at = between(first, x.rows, x.height);
    int64_t stop = first + 1;
    while (stop < last && between(stop, x.rows, x.height).first == at.first) ++stop;
    strip.run(at.first, at.second, first, stop);
    first = stop;
  }
}

template void window_rows(const FitArguments<float>&, int64_t, int64_t);
template void window_rows(const FitArguments<double>&, int64_t, int64_t);
template void model_rows(const FitArguments<float>&, int64_t, int64_t);
template void model_rows(const FitArguments<double>&, int64_t, int64_t);
template void affine_rows(const ApplyArguments<uint8_t>&, int64_t, int64_t);
template void affine_rows(const ApplyArguments<uint16_t>&, int64_t, int64_t);
template void affine_rows(const ApplyArguments<float>&, int64_t, int64_t);
template void affine_rows(const ApplyArguments<double>&, int64_t, int64_t);

}  // namespace FASTFCS_ISA
}  // namespace fastfcs
