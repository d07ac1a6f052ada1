// The operators on CUDA tensors. Arguments are checked as on the CPU, made contiguous (features in
// either layout) and passed to the kernels on torch's current stream. Unlike on the CPU, non-finite
// images raise no error, because detecting them would make the host wait for the device: they give
// non-finite results.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "../checks.h"
#include "../tensors.h"
#include "kernels.h"
#include "warp_product.h"

// Weak, so that this library also loads with a torch without CUDA. No CUDA tensor can then reach
// the functions below.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace fastfcs::cuda::ops {
namespace {

// Makes the tensor's device current for its lifetime and holds that device's current stream.
struct DeviceScope {
  explicit DeviceScope(const Tensor& tensor) : guard(tensor.get_device_index()) {
    if (!aoti_torch_get_current_cuda_stream)
      throw std::runtime_error(
          "fastfcs: torch is built without CUDA, so it has no current CUDA stream");
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &current));
    stream = static_cast<Stream>(current);
  }
  torch::stable::accelerator::DeviceGuard guard;
  Stream stream{};
};

template <typename T>
const T* input(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* output(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

template <typename T>
struct Type {
  using type = T;
};

// Calls call(Type<T>{}) for the tensor's dtype, which has been checked.
template <typename Call>
void dispatch(const Tensor& tensor, Call call) {
  tensor.scalar_type() == ScalarType::Double ? call(Type<double>{}) : call(Type<float>{});
}

template <typename Call>
void dispatch_features(const Tensor& tensor, bool tf32, Call call) {
  switch (tensor.scalar_type()) {
    case ScalarType::Half: return call(Type<Half>{});
    case ScalarType::BFloat16: return call(Type<BFloat16>{});
    case ScalarType::Float: return tf32 ? call(Type<Tf32>{}) : call(Type<float>{});
    default: return call(Type<double>{});
  }
}

MattingShape matting_shape(const Tensor& x) {
  return {x.size(0), x.size(1), static_cast<int>(x.size(2)), static_cast<int>(x.size(3))};
}

// The layout of h and of results like h, the same as on the CPU.
Layout layout_of(const Tensor& h) {
  return h.is_contiguous() || h.stride(1) != 1 ? Layout::channels_first : Layout::channels_last;
}

GramShape gram_shape(const Tensor& h, int64_t targets) {
  return {h.size(0), h.size(1), h.size(2) * h.size(3), targets, layout_of(h)};
}

Tensor with_layout(const Tensor& features, Layout layout) {
  using torch::headeronly::MemoryFormat;
  return torch::stable::contiguous(features, layout == Layout::channels_last
                                                 ? MemoryFormat::ChannelsLast
                                                 : MemoryFormat::Contiguous);
}

FeatureShape feature_shape(const Tensor& x) {
  return {x.size(0), x.size(1), static_cast<int>(x.size(2)), static_cast<int>(x.size(3))};
}

template <typename T>
PixelRows<T> pixel_rows(const Tensor& tensor) {
  return {input<T>(tensor), tensor.stride(2), tensor.stride(0)};
}

Tensor empty(const Tensor& like, std::vector<int64_t> shape, ScalarType dtype) {
  return torch::stable::new_empty(like, {shape.data(), shape.size()}, dtype);
}

Tensor matting_factors(const Tensor& image, double eps) {
  check_image(image);
  check_eps(eps);
  const DeviceScope scope(image);
  const Tensor from = torch::stable::contiguous(image);
  const Tensor factors = empty(
      image, {image.size(0), kFactors, image.size(2) - 2, image.size(3) - 2}, image.scalar_type());
  dispatch(image, [&](auto type) {
    using T = typename decltype(type)::type;
    cuda::matting_factors(input<T>(from), output<T>(factors), matting_shape(image), eps,
                          scope.stream);
  });
  return factors;
}

Tensor affine_fit(const Tensor& guide, const Tensor& signal, int64_t radius, double eps) {
  check_fit(guide, signal, radius, eps);
  const DeviceScope scope(guide);
  const Tensor g = torch::stable::contiguous(guide), s = torch::stable::contiguous(signal);
  const std::vector<int64_t> shape{g.size(0), kModel, g.size(2), g.size(3)};
  const Tensor windows = empty(g, shape, g.scalar_type()),
               models = empty(g, shape, g.scalar_type());
  dispatch(g, [&](auto type) {
    using T = typename decltype(type)::type;
    cuda::affine_fit(input<T>(g), input<T>(s), output<T>(windows), output<T>(models),
                     matting_shape(g), radius, eps, scope.stream);
  });
  return models;
}

Tensor affine_apply(const Tensor& image, const Tensor& models) {
  check_apply(image, models);
  const DeviceScope scope(image);
  // The result has the layout of the image, the same as on the CPU.
  const bool interleaved = !image.is_contiguous() && image.stride(1) == 1;
  const Tensor i = with_layout(image, interleaved ? Layout::channels_last
                                                  : Layout::channels_first),
               m = torch::stable::contiguous(models), out = torch::stable::empty_like(i);
  const ImageShape shape{i.size(0), static_cast<int>(i.size(2)), static_cast<int>(i.size(3)),
                         interleaved};
  const auto run = [&](auto sample, auto number) {
    using T = decltype(sample);
    using A = decltype(number);
    cuda::affine_apply(input<T>(i), input<A>(m), output<T>(out), shape,
                       static_cast<int>(m.size(2)), static_cast<int>(m.size(3)), scope.stream);
  };
  switch (i.scalar_type()) {
    case ScalarType::Byte: run(uint8_t(), float()); break;
    case ScalarType::UInt16: run(uint16_t(), float()); break;
    case ScalarType::Double: run(double(), double()); break;
    default: run(float(), float());
  }
  return out;
}

Tensor matting_matvec(const Tensor& image, const Tensor& factors, const Tensor& x) {
  check_product(image, factors, x);
  const DeviceScope scope(image);
  const Tensor i = torch::stable::contiguous(image), f = torch::stable::contiguous(factors),
               v = torch::stable::contiguous(x), y = torch::stable::empty_like(v);
  dispatch(x, [&](auto type) {
    using T = typename decltype(type)::type;
    cuda::matting_matvec(input<T>(i), input<T>(f), input<T>(v), output<T>(y), matting_shape(x),
                         scope.stream);
  });
  return y;
}

Tensor matting_filter(const Tensor& image, const Tensor& factors, const Tensor& x,
                      const Tensor& coefficients) {
  check_product(image, factors, x);
  check_coefficients(coefficients);
  const DeviceScope scope(image);
  const Tensor i = torch::stable::contiguous(image), f = torch::stable::contiguous(factors),
               v = torch::stable::contiguous(x), c = torch::stable::contiguous(coefficients),
               y = torch::stable::empty_like(v),
               buffers = empty(v, {c.numel() > 2 ? 2 * v.numel() : 0}, v.scalar_type());
  dispatch(x, [&](auto type) {
    using T = typename decltype(type)::type;
    cuda::matting_filter(input<T>(i), input<T>(f), input<T>(v), input<double>(c), c.numel() - 1,
                         output<T>(y), output<T>(buffers), matting_shape(x), scope.stream);
  });
  return y;
}

Tensor gram(const Tensor& h, bool tf32) {
  check_features(h);
  const DeviceScope scope(h);
  const GramShape shape = gram_shape(h, h.size(0));
  const Tensor features = with_layout(h, shape.layout),
               result = empty(h, {shape.batch, shape.channels, shape.channels}, gram_dtype(h)),
               workspace = empty(h, {gram_workspace(shape)}, gram_dtype(h));
  dispatch_features(h, tf32, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = typename Accumulate<T>::type;
    cuda::gram(input<T>(features), output<A>(result), output<A>(workspace), shape, scope.stream);
  });
  return result;
}

Tensor cross_gram(const Tensor& h, const Tensor& g, bool tf32) {
  check_like("g", g, "h", h);
  const DeviceScope scope(h);
  const GramShape shape = gram_shape(h, h.size(0));
  const Tensor features = with_layout(h, shape.layout), others = with_layout(g, shape.layout),
               result = empty(h, {shape.batch, shape.channels, shape.channels}, gram_dtype(h)),
               workspace = empty(h, {cross_gram_workspace(shape)}, gram_dtype(h));
  dispatch_features(h, tf32, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = typename Accumulate<T>::type;
    cuda::cross_gram(input<T>(features), input<T>(others), output<A>(result), output<A>(workspace),
                     shape, scope.stream);
  });
  return result;
}

Tensor gram_correction(const Tensor& h, const Tensor& target, bool tf32) {
  check_target(h, target);
  const DeviceScope scope(h);
  const GramShape shape = gram_shape(h, target.size(0));
  const Tensor features = with_layout(h, shape.layout), targets = torch::stable::contiguous(target),
               result = torch::stable::empty_like(features),
               workspace = empty(h, {gram_correction_workspace(shape)}, gram_dtype(h));
  dispatch_features(h, tf32, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = typename Accumulate<T>::type;
    cuda::gram_correction(input<T>(features), input<A>(targets), output<T>(result),
                          output<A>(workspace), shape, scope.stream);
  });
  return result;
}

std::tuple<Tensor, Tensor> gram_correction_backward(const Tensor& h, const Tensor& target,
                                                    const Tensor& grad, bool tf32) {
  check_target(h, target);
  check_grad(h, grad);
  const DeviceScope scope(h);
  const GramShape shape = gram_shape(h, target.size(0));
  const Tensor features = with_layout(h, shape.layout), targets = torch::stable::contiguous(target),
               gradient = with_layout(grad, shape.layout), dh = torch::stable::empty_like(features),
               workspace = empty(h, {gram_correction_backward_workspace(shape)}, gram_dtype(h));
  Tensor dtarget = torch::stable::empty_like(targets);
  if (h.size(0) == 0) torch::stable::zero_(dtarget);  // an empty sum: no kernel runs
  dispatch_features(h, tf32, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = typename Accumulate<T>::type;
    cuda::gram_correction_backward(input<T>(features), input<A>(targets), input<T>(gradient),
                                   output<T>(dh), output<A>(dtarget), output<A>(workspace), shape,
                                   scope.stream);
  });
  return {dh, dtarget};
}

Tensor level_gradient(const Tensor& h, const Tensor& weights, std::optional<Tensor> coarse,
                      double slope, bool tf32) {
  check_level(h, weights, coarse ? &*coarse : nullptr, slope);
  const DeviceScope scope(h);
  const FeatureShape shape = feature_shape(h);
  const Tensor features = with_layout(h, Layout::channels_last),
               matrices = torch::stable::contiguous(weights),
               result = new_channels_last(
                   h, {shape.batch, shape.channels, shape.height + 2, shape.width + 2});
  if (coarse) coarse = with_layout(*coarse, Layout::channels_last);
  dispatch_features(h, tf32, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = typename Accumulate<T>::type;
    cuda::level_gradient(input<T>(features), input<A>(matrices),
                         coarse ? input<T>(*coarse) : nullptr, output<T>(result), shape,
                         weights.size(0), slope, scope.stream);
  });
  return result;
}

// The four passes of `kernel`, from x and by to a result of height x width pixels.
template <typename Kernel>
Tensor between_convolutions(const Tensor& x, const Tensor& by, int64_t height, int64_t width,
                            double slope, Kernel kernel) {
  const DeviceScope scope(by);
  const Tensor from = as_pixel_rows(x), gates = as_pixel_rows(by),
               result = new_channels_last(by, {by.size(0), by.size(1), height, width});
  dispatch_features(by, false, [&](auto type) {
    using T = typename decltype(type)::type;
    if constexpr (!std::is_same_v<T, Tf32>)
      kernel(pixel_rows<T>(from), pixel_rows<T>(gates), output<T>(result), feature_shape(by), slope,
             scope.stream);
  });
  return result;
}

Tensor gate(const Tensor& x, const Tensor& by, double slope) {
  check_like("by", by, "x", x);
  check_slope(slope);
  return between_convolutions(x, by, by.size(2) + 2, by.size(3) + 2, slope,
                              [](auto... arguments) { cuda::gate(arguments...); });
}

Tensor gate_backward(const Tensor& grad, const Tensor& by, double slope) {
  check_padded_grad(grad, by, by.size(2), by.size(3));
  check_slope(slope);
  return between_convolutions(grad, by, by.size(2), by.size(3), slope,
                              [](auto... arguments) { cuda::gate_backward(arguments...); });
}

Tensor halve(const Tensor& x, const Tensor& by, double slope) {
  check_like("by", by, "x", x);
  check_slope(slope);
  return between_convolutions(x, by, halved(by.size(2)) + 2, halved(by.size(3)) + 2, slope,
                              [](auto... arguments) { cuda::halve(arguments...); });
}

Tensor halve_backward(const Tensor& grad, const Tensor& by, double slope) {
  check_features(by, "by");
  check_padded_grad(grad, by, halved(by.size(2)), halved(by.size(3)));
  check_slope(slope);
  return between_convolutions(grad, by, by.size(2), by.size(3), slope,
                              [](auto... arguments) { cuda::halve_backward(arguments...); });
}

}  // namespace
}  // namespace fastfcs::cuda::ops

STABLE_TORCH_LIBRARY_IMPL(fastfcs, CUDA, m) {
  m.impl("matting_factors", TORCH_BOX(&fastfcs::cuda::ops::matting_factors));
  m.impl("affine_fit", TORCH_BOX(&fastfcs::cuda::ops::affine_fit));
  m.impl("affine_apply", TORCH_BOX(&fastfcs::cuda::ops::affine_apply));
  m.impl("matting_matvec", TORCH_BOX(&fastfcs::cuda::ops::matting_matvec));
  m.impl("matting_filter", TORCH_BOX(&fastfcs::cuda::ops::matting_filter));
  m.impl("gram", TORCH_BOX(&fastfcs::cuda::ops::gram));
  m.impl("gram_correction", TORCH_BOX(&fastfcs::cuda::ops::gram_correction));
  m.impl("gram_correction_backward", TORCH_BOX(&fastfcs::cuda::ops::gram_correction_backward));
  m.impl("cross_gram", TORCH_BOX(&fastfcs::cuda::ops::cross_gram));
  m.impl("level_gradient", TORCH_BOX(&fastfcs::cuda::ops::level_gradient));
  m.impl("gate", TORCH_BOX(&fastfcs::cuda::ops::gate));
  m.impl("gate_backward", TORCH_BOX(&fastfcs::cuda::ops::gate_backward));
  m.impl("halve", TORCH_BOX(&fastfcs::cuda::ops::halve));
  m.impl("halve_backward", TORCH_BOX(&fastfcs::cuda::ops::halve_backward));
}
