// Argument checks of the operators, the same on every device. Each failure is a ValueError in
// Python with one sentence: "ARGUMENT must ..., got ...".
#pragma once

#include <cmath>
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>

#include <torch/csrc/stable/device.h>
#include <torch/csrc/stable/tensor.h>

#include "affine.h"
#include "matting.h"

namespace fastfcs {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename... Parts>
[[noreturn]] inline void raise_value_error(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

inline std::string shape_of(const Tensor& tensor) {
  std::ostringstream text;
  text << '(';
  for (int64_t d = 0; d < tensor.dim(); ++d) text << (d ? ", " : "") << tensor.size(d);
  text << (tensor.dim() == 1 ? ",)" : ")");
  return text.str();
}

inline std::string dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Half: return "float16";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Byte: return "uint8";
    case ScalarType::UInt16: return "uint16";
    default: return torch::headeronly::toString(tensor.scalar_type());
  }
}

inline std::string device_of(const Tensor& tensor) {
  if (tensor.is_cpu()) return "cpu";
  const std::string type =
      tensor.is_cuda() ? "cuda" : "device type " + std::to_string(int(tensor.device().type()));
  return type + ":" + std::to_string(tensor.get_device_index());
}

inline void check_with(const char* name, const Tensor& tensor, const char* other_name,
                       const Tensor& other) {
  if (tensor.device() != other.device())
    raise_value_error(name, " must be on ", other_name, "'s device ", device_of(other), ", got ",
                      device_of(tensor));
  if (tensor.scalar_type() != other.scalar_type())
    raise_value_error(name, " must have ", other_name, "'s dtype ", dtype_of(other), ", got ",
                      dtype_of(tensor));
}

[[noreturn]] inline void raise_not_finite(const char* name) {
  raise_value_error(name, " must be finite, got at least one NaN or infinity");
}

inline void check_image(const Tensor& image) {
  if (image.dim() != 4 || image.size(1) != 3 || image.size(2) < 3 || image.size(3) < 3)
    raise_value_error("image must have shape (B, 3, H, W) with H and W at least 3, got ",
                      shape_of(image));
  if (image.scalar_type() != ScalarType::Float && image.scalar_type() != ScalarType::Double)
    raise_value_error("image must be float32 or float64, got ", dtype_of(image));
}

inline void check_eps(double eps) {
  if (!(eps > 0 && std::isfinite(eps)))
    raise_value_error("eps must be a positive number, got ", eps);
}

// Arguments of a product with L: image [B, 3, H, W], factors [B, kFactors, H-2, W-2],
// x [B, C, H, W].
inline void check_product(const Tensor& image, const Tensor& factors, const Tensor& x) {
  check_image(image);
  const int64_t b = image.size(0), h = image.size(2), w = image.size(3);
  if (factors.dim() != 4 || factors.size(0) != b || factors.size(1) != kFactors ||
      factors.size(2) != h - 2 || factors.size(3) != w - 2)
    raise_value_error("factors must have shape (", b, ", ", kFactors, ", ", h - 2, ", ", w - 2,
                      "), those of image ", shape_of(image), ", got ", shape_of(factors));
  check_with("factors", factors, "image", image);
  if (x.dim() != 4 || x.size(0) != b || x.size(2) != h || x.size(3) != w)
    raise_value_error("x must have shape (", b, ", C, ", h, ", ", w, "), like image ",
                      shape_of(image), ", got ", shape_of(x));
  check_with("x", x, "image", image);
}

inline void check_coefficients(const Tensor& coefficients) {
  if (coefficients.dim() != 1 || coefficients.numel() < 1 ||
      coefficients.scalar_type() != ScalarType::Double || !coefficients.is_cpu())
    raise_value_error(
        "coefficients must be a float64 tensor on the CPU of shape (order + 1,) with order at "
        "least 0, got ",
        dtype_of(coefficients), " on ", device_of(coefficients), " of shape ",
        shape_of(coefficients));
  const double* c = coefficients.const_data_ptr<double>();
  for (int64_t k = 0; k < coefficients.numel(); ++k)
    if (!std::isfinite(c[k * coefficients.stride(0)])) raise_not_finite("coefficients");
}

inline void check_features(const Tensor& h, const char* name = "h") {
  if (h.dim() != 4 || h.size(1) < 1 || h.size(2) < 1 || h.size(3) < 1)
    raise_value_error(name, " must have shape (B, C, H, W) with C, H and W at least 1, got ",
                      shape_of(h));
  switch (h.scalar_type()) {
    case ScalarType::Float:
    case ScalarType::Double:
    case ScalarType::Half:
    case ScalarType::BFloat16: return;
    default:
      raise_value_error(name, " must be float16, bfloat16, float32 or float64, got ", dtype_of(h));
  }
}

// The dtype of Gram matrices: that of h, or float32 for half types.
inline ScalarType gram_dtype(const Tensor& h) {
  return h.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// A matrix per batch element, or one for all.
inline void check_matrix(const char* name, const Tensor& h, const Tensor& matrix) {
  check_features(h);
  const int64_t b = h.size(0), c = h.size(1);
  if (matrix.dim() != 3 || (matrix.size(0) != b && matrix.size(0) != 1) || matrix.size(1) != c ||
      matrix.size(2) != c)
    raise_value_error(name, " must have shape (", b, ", ", c, ", ", c, ") or (1, ", c, ", ", c,
                      ") for h ", shape_of(h), ", got ", shape_of(matrix));
  if (matrix.scalar_type() != gram_dtype(h))
    raise_value_error(name, " must be ",
                      gram_dtype(h) == ScalarType::Double ? "float64" : "float32", " for h in ",
                      dtype_of(h), ", got ", dtype_of(matrix));
  if (matrix.device() != h.device())
    raise_value_error(name, " must be on h's device ", device_of(h), ", got ", device_of(matrix));
}

inline void check_target(const Tensor& h, const Tensor& target) {
  check_matrix("target", h, target);
}

inline void check_like(const char* name, const Tensor& tensor, const char* other_name,
                       const Tensor& other) {
  check_features(other, other_name);
  if (shape_of(tensor) != shape_of(other))
    raise_value_error(name, " must have ", other_name, "'s shape ", shape_of(other), ", got ",
                      shape_of(tensor));
  check_with(name, tensor, other_name, other);
}

inline void check_grad(const Tensor& h, const Tensor& grad) { check_like("grad", grad, "h", h); }

// x padded by one pixel on each side, weight [outputs, C, 3, 3] and bias [outputs] or none.
inline void check_convolution(const Tensor& x, const Tensor& weight, const Tensor* bias) {
  if (x.dim() != 4 || x.size(1) < 1 || x.size(2) < 3 || x.size(3) < 3)
    raise_value_error("x must have shape (B, C, H + 2, W + 2) with C, H and W at least 1, got ",
                      shape_of(x));
  if (x.scalar_type() != ScalarType::Float && x.scalar_type() != ScalarType::BFloat16)
    raise_value_error("x must be float32 or bfloat16, got ", dtype_of(x));
  if (weight.dim() != 4 || weight.size(0) < 1 || weight.size(1) != x.size(1) ||
      weight.size(2) != 3 || weight.size(3) != 3)
    raise_value_error("weight must have shape (outputs, ", x.size(1), ", 3, 3) for x ", shape_of(x),
                      ", got ", shape_of(weight));
  check_with("weight", weight, "x", x);
  if (!bias) return;
  if (bias->dim() != 1 || bias->size(0) != weight.size(0))
    raise_value_error("bias must have shape (", weight.size(0), ",), got ", shape_of(*bias));
  check_with("bias", *bias, "x", x);
}

// The gates of a convolution of x, which is padded.
inline void check_gates(const Tensor& by, const Tensor& x, const Tensor& weight) {
  const int64_t b = x.size(0), c = weight.size(0), h = x.size(2) - 2, w = x.size(3) - 2;
  if (by.dim() != 4 || by.size(0) != b || by.size(1) != c || by.size(2) != h || by.size(3) != w)
    raise_value_error("by must have shape (", b, ", ", c, ", ", h, ", ", w,
                      "), that of the convolution of x ", shape_of(x), ", got ", shape_of(by));
  check_with("by", by, "x", x);
}

inline void check_slope(double slope) {
  if (!std::isfinite(slope)) raise_value_error("slope must be finite, got ", slope);
}

// The number of cells of two pixels, the last of which may be cut off.
inline int64_t halved(int64_t pixels) { return (pixels + 1) / 2; }

// The gradient of a result that is padded by one pixel on each side: of `height` x `width` pixels
// without the padding.
inline void check_padded_grad(const Tensor& grad, const Tensor& by, int64_t height, int64_t width) {
  check_features(by, "by");
  if (grad.dim() != 4 || grad.size(0) != by.size(0) || grad.size(1) != by.size(1) ||
      grad.size(2) != height + 2 || grad.size(3) != width + 2)
    raise_value_error("grad must have shape (", by.size(0), ", ", by.size(1), ", ", height + 2,
                      ", ", width + 2, ") for by ", shape_of(by), ", got ", shape_of(grad));
  check_with("grad", grad, "by", by);
}

inline void check_level(const Tensor& h, const Tensor& weights, const Tensor* coarse,
                        double slope) {
  check_matrix("weights", h, weights);
  check_slope(slope);
  if (!coarse) return;
  const int64_t b = h.size(0), c = h.size(1), y = halved(h.size(2)), x = halved(h.size(3));
  if (coarse->dim() != 4 || coarse->size(0) != b || coarse->size(1) != c || coarse->size(2) != y ||
      coarse->size(3) != x)
    raise_value_error("coarse must have shape (", b, ", ", c, ", ", y, ", ", x, ") for h ",
                      shape_of(h), ", got ", shape_of(*coarse));
  check_with("coarse", *coarse, "h", h);
}

// The arguments of the local affine models.
inline void check_fit(const Tensor& guide, const Tensor& signal, int64_t radius, double eps) {
  if (guide.dim() != 4 || guide.size(1) != 3 || guide.size(2) < 1 || guide.size(3) < 1)
    raise_value_error("guide must have shape (B, 3, H, W) with H and W at least 1, got ",
                      shape_of(guide));
  if (guide.scalar_type() != ScalarType::Float && guide.scalar_type() != ScalarType::Double)
    raise_value_error("guide must be float32 or float64, got ", dtype_of(guide));
  if (shape_of(signal) != shape_of(guide))
    raise_value_error("signal must have guide's shape ", shape_of(guide), ", got ",
                      shape_of(signal));
  check_with("signal", signal, "guide", guide);
  if (radius < 1) raise_value_error("radius must be at least 1, got ", radius);
  check_eps(eps);
}

inline void check_apply(const Tensor& image, const Tensor& models) {
  if (image.dim() != 4 || image.size(1) != 3 || image.size(2) < 1 || image.size(3) < 1)
    raise_value_error("image must have shape (B, 3, H, W) with H and W at least 1, got ",
                      shape_of(image));
  switch (image.scalar_type()) {
    case ScalarType::Byte:
    case ScalarType::UInt16:
    case ScalarType::Float:
    case ScalarType::Double: break;
    default:
      raise_value_error("image must be uint8, uint16, float32 or float64, got ", dtype_of(image));
  }
  if (models.dim() != 4 || models.size(0) != image.size(0) || models.size(1) != kModel ||
      models.size(2) < 1 || models.size(3) < 1)
    raise_value_error("models must have shape (", image.size(0), ", ", kModel,
                      ", h, w) for image ", shape_of(image), ", got ", shape_of(models));
  if (models.device() != image.device())
    raise_value_error("models must be on image's device ", device_of(image), ", got ",
                      device_of(models));
  const bool wide = image.scalar_type() == ScalarType::Double;
  if (models.scalar_type() != (wide ? ScalarType::Double : ScalarType::Float))
    raise_value_error("models must be ", wide ? "float64" : "float32", " for image in ",
                      dtype_of(image), ", got ", dtype_of(models));
}

}  // namespace fastfcs
