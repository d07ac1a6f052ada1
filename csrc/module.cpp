// fastfcs._C: information about this build, and the matting Laplacian as an explicit matrix.
// Importing the module registers the operators.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "cpu/isa.h"
#include "cpu/laplacian_csr.h"

namespace py = pybind11;

namespace {

py::dict build_info() {
  py::dict info;
  info["version"] = FASTFCS_VERSION;
#ifdef __clang__
  info["compiler"] = "clang " __clang_version__;
#else
  info["compiler"] = "gcc " __VERSION__;
#endif
  info["torch_abi"] = FASTFCS_TORCH_ABI;
#ifdef FASTFCS_CUDA
  info["cuda"] = FASTFCS_CUDA;
  info["cuda_architectures"] = FASTFCS_CUDA_ARCHITECTURES;
#else
  info["cuda"] = py::none();
  info["cuda_architectures"] = py::none();
#endif
  info["cpu"] = fastfcs::name_of(fastfcs::isa());
  return info;
}

using Array = py::array_t<double, py::array::c_style | py::array::forcecast>;

// (data, indices, indptr) of L, float64 and int32, for image (H, W, 3).
py::tuple laplacian_csr(const Array& image, double eps) {
  if (image.ndim() != 3 || image.shape(2) != 3 || image.shape(0) < 3 || image.shape(1) < 3)
    throw std::invalid_argument("image must have shape (H, W, 3) with H and W at least 3, got " +
                                std::string(py::str(image.attr("shape"))));
  const int64_t height = image.shape(0), width = image.shape(1);
  py::array_t<int32_t> indptr(height * width + 1);
  const int64_t entries = fastfcs::laplacian_csr_rows(height, width, indptr.mutable_data());
  py::array_t<double> data(entries);
  py::array_t<int32_t> indices(entries);
  const double* const from = image.data();
  const int32_t* const row_starts = indptr.data();
  int32_t* const columns = indices.mutable_data();
  double* const values = data.mutable_data();
  {
    py::gil_scoped_release released;
    fastfcs::laplacian_csr_entries(from, height, width, eps, row_starts, columns, values);
  }
  return py::make_tuple(data, indices, indptr);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  fastfcs::isa();  // raises here if FASTFCS_ISA is invalid
  module.def("build_info", &build_info);
  module.def("has_fast_bfloat16", &fastfcs::has_fast_bfloat16);
  module.def("laplacian_csr", &laplacian_csr, py::arg("image"), py::arg("eps"));
}
