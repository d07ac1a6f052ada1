// The operators on CUDA tensors. Arguments are checked as on the CPU, made contiguous and passed to
// the kernels on torch's current stream. Unlike on the CPU, non-finite images raise no error,
// because detecting them would make the host wait for the device: they give non-finite results.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>
#include <vector>

#include "../checks.h"
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

GramShape gram_shape(const Tensor& h, int64_t targets) {
  return {h.size(0), h.size(1), h.size(2) * h.size(3), targets};
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
  const Tensor features = torch::stable::contiguous(h),
               result = empty(h, {shape.batch, shape.channels, shape.channels}, gram_dtype(h)),
               workspace = empty(h, {gram_workspace(shape)}, gram_dtype(h));
  dispatch_features(h, tf32, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = typename Accumulate<T>::type;
    cuda::gram(input<T>(features), output<A>(result), output<A>(workspace), shape, scope.stream);
  });
  return result;
}

Tensor gram_correction(const Tensor& h, const Tensor& target, bool tf32) {
  check_target(h, target);
  const DeviceScope scope(h);
  const GramShape shape = gram_shape(h, target.size(0));
  const Tensor features = torch::stable::contiguous(h), targets = torch::stable::contiguous(target),
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
  const Tensor features = torch::stable::contiguous(h), targets = torch::stable::contiguous(target),
               gradient = torch::stable::contiguous(grad), dh = torch::stable::empty_like(features),
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

}  // namespace
}  // namespace fastfcs::cuda::ops

STABLE_TORCH_LIBRARY_IMPL(fastfcs, CUDA, m) {
  m.impl("matting_factors", TORCH_BOX(&fastfcs::cuda::ops::matting_factors));
  m.impl("matting_matvec", TORCH_BOX(&fastfcs::cuda::ops::matting_matvec));
  m.impl("matting_filter", TORCH_BOX(&fastfcs::cuda::ops::matting_filter));
  m.impl("gram", TORCH_BOX(&fastfcs::cuda::ops::gram));
  m.impl("gram_correction", TORCH_BOX(&fastfcs::cuda::ops::gram_correction));
  m.impl("gram_correction_backward", TORCH_BOX(&fastfcs::cuda::ops::gram_correction_backward));
}
