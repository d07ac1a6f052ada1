// affine_fit and affine_apply on the CPU.
#include <algorithm>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../checks.h"
#include "../tensors.h"
#include "affine_rows.h"
#include "isa.h"
#include "parallel.h"

namespace fastfcs {
namespace {

constexpr int64_t kGrainPixels = 1 << 15;  // the least work that pays for another thread

int64_t grain_rows(int64_t width) { return std::max<int64_t>(1, kGrainPixels / width); }

template <typename T>
Tensor fit(const Tensor& guide, const Tensor& signal, int64_t radius, double eps) {
  static const FitRows<T> windows = FASTFCS_FOR_ISA(window_rows<T>);
  static const FitRows<T> models = FASTFCS_FOR_ISA(model_rows<T>);
  const int64_t batch = guide.size(0), height = guide.size(2), width = guide.size(3);
  radius = std::min(radius, std::max(height, width));  // larger windows have no more pixels
  Tensor result = new_empty(guide, {batch, kModel, height, width}, guide.scalar_type());
  Tensor memory = new_empty(guide, {kModel, height, width}, guide.scalar_type());
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t at = b * 3 * height * width;
    const FitArguments<T> x{height,
                            width,
                            radius,
                            eps,
                            guide.const_data_ptr<T>() + at,
                            signal.const_data_ptr<T>() + at,
                            memory.mutable_data_ptr<T>(),
                            result.mutable_data_ptr<T>() + kModel / 3 * at};
    for (const FitRows<T> rows : {windows, models})
      torch::stable::parallel_for(0, height, grain_rows(width),
                                  [&](int64_t first, int64_t last) { rows(x, first, last); });
  }
  return result;
}

Tensor affine_fit(const Tensor& guide, const Tensor& signal, int64_t radius, double eps) {
  check_fit(guide, signal, radius, eps);
  const Tensor g = as_contiguous(guide), s = as_contiguous(signal);
  return guide.scalar_type() == ScalarType::Double ? fit<double>(g, s, radius, eps)
                                                   : fit<float>(g, s, radius, eps);
}

template <typename T>
Tensor apply(const Tensor& image, const Tensor& models) {
  static const ApplyRows<T> rows = FASTFCS_FOR_ISA(affine_rows<T>);
  const int64_t batch = image.size(0), height = image.size(2), width = image.size(3);
  const bool interleaved = !image.is_contiguous();
  Tensor result = interleaved ? new_channels_last(image, image.sizes().vec())
                              : new_empty(image, image.sizes().vec(), image.scalar_type());
  const int64_t pixels = height * width;
  ApplyArguments<T> x{};
  x.height = height;
  x.width = width;
  x.channel = interleaved ? 1 : pixels;
  x.pixel = interleaved ? 3 : 1;
  x.rows = models.size(2);
  x.columns = models.size(3);
  const T* const from = static_cast<const T*>(image.const_data_ptr());
  T* const to = static_cast<T*>(result.mutable_data_ptr());
  const auto* const coefficients =
      static_cast<const accumulate_t<T>*>(models.const_data_ptr());
  take_parts(batch, height, grain_rows(width), [&](int64_t b, int64_t first, int64_t last) {
    ApplyArguments<T> own = x;
    own.image = from + b * 3 * pixels;
    own.result = to + b * 3 * pixels;
    own.models = coefficients + b * kModel * x.rows * x.columns;
    rows(own, first, last);
  });
  return result;
}

Tensor affine_apply(const Tensor& image, const Tensor& models) {
  check_apply(image, models);
  const Tensor m = as_contiguous(models);
  const bool interleaved = !image.is_contiguous() && image.stride(1) == 1;
  const Tensor i = interleaved ? torch::stable::contiguous(
                                     image, torch::headeronly::MemoryFormat::ChannelsLast)
                               : as_contiguous(image);
  switch (image.scalar_type()) {
    case ScalarType::Byte: return apply<uint8_t>(i, m);
    case ScalarType::UInt16: return apply<uint16_t>(i, m);
    case ScalarType::Double: return apply<double>(i, m);
    default: return apply<float>(i, m);
  }
}

}  // namespace
}  // namespace fastfcs

STABLE_TORCH_LIBRARY_IMPL(fastfcs, CPU, library) {
  library.impl("affine_fit", TORCH_BOX(&fastfcs::affine_fit));
  library.impl("affine_apply", TORCH_BOX(&fastfcs::affine_apply));
}
