// Schemas of the operators. Each device registers its own implementation.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fastfcs, library) {
  library.def("matting_factors(Tensor image, float eps) -> Tensor");
  library.def("matting_matvec(Tensor image, Tensor factors, Tensor x) -> Tensor");
  library.def(
      "matting_filter(Tensor image, Tensor factors, Tensor x, Tensor coefficients) -> Tensor");
  library.def("affine_fit(Tensor guide, Tensor signal, int radius, float eps) -> Tensor");
  library.def("affine_apply(Tensor image, Tensor models) -> Tensor");
  // tf32: whether CUDA may round float32 to TF32 and use tensor cores. The CPU ignores it.
  library.def("gram(Tensor h, bool tf32=False) -> Tensor");
  library.def("gram_correction(Tensor h, Tensor target, bool tf32=False) -> Tensor");
  library.def(
      "gram_correction_backward(Tensor h, Tensor target, Tensor grad, bool tf32=False) -> (Tensor, "
      "Tensor)");
  library.def("cross_gram(Tensor h, Tensor g, bool tf32=False) -> Tensor");
  library.def(
      "level_gradient(Tensor h, Tensor weights, Tensor? coarse, float slope, bool tf32=False) -> "
      "Tensor");
  // tiles: whether the CPU may round to two bfloat16 parts; None stands for where that is faster.
  library.def("convolution(Tensor x, Tensor weight, Tensor? bias, bool? tiles=False) -> Tensor");
  library.def(
      "gated_convolution(Tensor x, Tensor weight, Tensor? bias, Tensor? by, float slope, bool? "
      "tiles=False) -> Tensor");
  library.def("gate(Tensor x, Tensor by, float slope) -> Tensor");
  library.def("gate_backward(Tensor grad, Tensor by, float slope) -> Tensor");
  library.def("halve(Tensor x, Tensor by, float slope) -> Tensor");
  library.def("halve_backward(Tensor grad, Tensor by, float slope) -> Tensor");
}
