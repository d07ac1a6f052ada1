// fastfcs._C: facts about this build, and the matting Laplacian as an explicit matrix. Importing it registers the operators.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>

#include "cpu/isa.h"
#include "matting.h"

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

// Row i of L holds pixel i's neighbours up to two rows and two columns away, in the order of their numbers.
struct Neighbours {
  int64_t first, count;
  Neighbours(int64_t i, int64_t n) : first(std::max<int64_t>(i - 2, 0)), count(std::min(i + 2, n - 1) - first + 1) {}
};

py::tuple laplacian_csr(const Array& image, double eps) {
  if (image.ndim() != 3 || image.shape(2) != 3 || image.shape(0) < 3 || image.shape(1) < 3)
    throw std::invalid_argument("image must have shape (H, W, 3) with H and W at least 3");
  const int64_t height = image.shape(0), width = image.shape(1);
  py::array_t<int32_t> indptr(height * width + 1);
  int32_t* starts = indptr.mutable_data();
  int64_t entries = 0;
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x) {
      starts[y * width + x] = int32_t(entries);
      entries += Neighbours(y, height).count * Neighbours(x, width).count;
      if (entries > std::numeric_limits<int32_t>::max())
        throw std::invalid_argument("image is too large for an explicit matrix: it needs more than 2^31 - 1 entries");
    }
  starts[height * width] = int32_t(entries);
  py::array_t<double> data(entries);
  py::array_t<int32_t> indices(entries);
  double* values = data.mutable_data();
  int32_t* columns = indices.mutable_data();
  const double* pixels = image.data();

  py::gil_scoped_release released;
  std::fill(values, values + entries, 0.0);
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x) {
      const Neighbours rows(y, height), cols(x, width);
      int32_t* column = columns + starts[y * width + x];
      for (int64_t v = rows.first; v < rows.first + rows.count; ++v)
        for (int64_t u = cols.first; u < cols.first + cols.count; ++u) *column++ = int32_t(v * width + u);
    }
  for (int64_t y = 0; y < height - 2; ++y)
    for (int64_t x = 0; x < width - 2; ++x) {
      double window[3][9], k[fastfcs::kFactors], z[9][3];
      for (int c = 0; c < 3; ++c) {
        double mean = 0;
        for (int j = 0; j < 9; ++j) mean += (window[c][j] = pixels[((y + j / 3) * width + x + j % 3) * 3 + c]) / 9;
        for (double& value : window[c]) value -= mean;
      }
      fastfcs::window_factors(window, eps, k);
      for (int j = 0; j < 9; ++j) {  // z_j = K^T (I_j - mu)
        z[j][0] = k[0] * window[0][j];
        z[j][1] = k[1] * window[0][j] + k[3] * window[1][j];
        z[j][2] = k[2] * window[0][j] + k[4] * window[1][j] + k[5] * window[2][j];
      }
      for (int i = 0; i < 9; ++i) {
        const int64_t yi = y + i / 3, xi = x + i % 3;
        const Neighbours rows(yi, height), cols(xi, width);
        double* row = values + starts[yi * width + xi];
        for (int j = 0; j < 9; ++j) {
          const double a = (1 + z[i][0] * z[j][0] + z[i][1] * z[j][1] + z[i][2] * z[j][2]) / 9;
          row[(y + j / 3 - rows.first) * cols.count + x + j % 3 - cols.first] += (i == j) - a;
        }
      }
    }
  py::gil_scoped_acquire held;
  return py::make_tuple(data, indices, indptr);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  fastfcs::isa();  // a wrong FASTFCS_ISA is refused here
  module.def("build_info", &build_info);
  module.def("laplacian_csr", &laplacian_csr, py::arg("image"), py::arg("eps"));
}
