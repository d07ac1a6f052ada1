// gram, gram_correction and its backward on the CPU: matrix products by torch's BLAS, called below the dispatcher, so
// that autocast cannot lower their precision. Half types are computed in float32.
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../checks.h"

namespace fastfcs {
namespace {

// h as (B, C, n), contiguous, in the dtype of Gram matrices.
Tensor columns_of(const Tensor& h) {
  const Tensor converted = torch::stable::to(torch::stable::contiguous(h), gram_dtype(h));
  return torch::stable::view(converted, {h.size(0), h.size(1), h.size(2) * h.size(3)});
}

Tensor transposed(const Tensor& matrix) { return torch::stable::transpose(matrix, 1, 2); }

// a b
Tensor product(const Tensor& a, const Tensor& b) {
  Tensor out = torch::stable::new_empty(a, {a.size(0), a.size(1), b.size(2)});
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_bmm_out(out.get(), a.get(), b.get()));
  return out;
}

// alpha a b + beta c; c may have batch 1.
Tensor product_plus(const Tensor& a, const Tensor& b, double alpha, const Tensor& c, double beta) {
  Tensor out = torch::stable::new_empty(a, {a.size(0), a.size(1), b.size(2)});
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_baddbmm_out(out.get(), c.get(), a.get(), b.get(), beta, alpha));
  return out;
}

// (B, C, n) back to the shape and dtype of h.
Tensor like(const Tensor& h, const Tensor& columns) {
  return torch::stable::to(torch::stable::view(columns, h.sizes()), h.scalar_type());
}

// G - H
Tensor difference(const Tensor& columns, const Tensor& target) {
  return product_plus(columns, transposed(columns), 1.0 / double(columns.size(2)), target, -1);
}

Tensor gram(const Tensor& h) {
  check_features(h);
  const Tensor columns = columns_of(h);
  const Tensor zero = torch::stable::new_zeros(columns, {1, h.size(1), h.size(1)});
  return difference(columns, zero);
}

Tensor gram_correction(const Tensor& h, const Tensor& target) {
  check_target(h, target);
  const Tensor columns = columns_of(h);
  return like(h, product(transposed(difference(columns, target)), columns));
}

std::tuple<Tensor, Tensor> gram_correction_backward(const Tensor& h, const Tensor& target, const Tensor& grad) {
  check_target(h, target);
  check_grad(h, grad);
  const Tensor columns = columns_of(h), outer = columns_of(grad);
  const Tensor s = product(columns, transposed(outer));
  const Tensor symmetric = product_plus(outer, transposed(columns), 1, s, 1);
  const Tensor through_target = product(difference(columns, target), outer);
  const Tensor dh = product_plus(symmetric, columns, 1.0 / double(columns.size(2)), through_target, 1);
  const Tensor zero = torch::stable::new_zeros(s, {1});
  Tensor dtarget = torch::stable::subtract(zero, s);
  if (target.size(0) != h.size(0)) {
    const int64_t batch = 0;
    dtarget = torch::stable::sum(dtarget, torch::headeronly::IntHeaderOnlyArrayRef(&batch, 1), true);
  }
  return {like(h, dh), dtarget};
}

}  // namespace
}  // namespace fastfcs

STABLE_TORCH_LIBRARY_IMPL(fastfcs, CPU, library) {
  library.impl("gram", TORCH_BOX(&fastfcs::gram));
  library.impl("gram_correction", TORCH_BOX(&fastfcs::gram_correction));
  library.impl("gram_correction_backward", TORCH_BOX(&fastfcs::gram_correction_backward));
}
