// The operators' schemas. Each device registers its own implementation.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fastfcs, library) {
  library.def("matting_factors(Tensor image, float eps) -> Tensor");
  library.def("matting_matvec(Tensor image, Tensor factors, Tensor x) -> Tensor");
  library.def("matting_filter(Tensor image, Tensor factors, Tensor x, Tensor coefficients) -> Tensor");
  library.def("gram(Tensor h) -> Tensor");
  library.def("gram_correction(Tensor h, Tensor target) -> Tensor");
  library.def("gram_correction_backward(Tensor h, Tensor target, Tensor grad) -> (Tensor, Tensor)");
}
