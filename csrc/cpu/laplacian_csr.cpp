#include "laplacian_csr.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "../matting.h"

namespace fastfcs {
namespace {

// The coordinates along one axis, n long, of the pixels that share a window with a pixel at i.
struct Neighbours {
  int64_t first, count;
  Neighbours(int64_t i, int64_t n)
      : first(std::max<int64_t>(i - 2, 0)), count(std::min(i + 2, n - 1) - first + 1) {}
};

}  // namespace

int64_t laplacian_csr_rows(int64_t height, int64_t width, int32_t* indptr) {
  constexpr int64_t limit = std::numeric_limits<int32_t>::max();
  int64_t entries = 0;
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x) {
      indptr[y * width + x] = int32_t(entries);
      entries += Neighbours(y, height).count * Neighbours(x, width).count;
      if (entries > limit)
        throw std::invalid_argument("image must be small enough for 2^31 - 1 matrix entries, got " +
                                    std::to_string(height) + " x " + std::to_string(width) +
                                    " pixels");
    }
  indptr[height * width] = int32_t(entries);
  return entries;
}

void laplacian_csr_entries(const double* image, int64_t height, int64_t width, double eps,
                           const int32_t* indptr, int32_t* indices, double* data) {
  std::fill(data, data + indptr[height * width], 0.0);
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x) {
      const Neighbours rows(y, height), columns(x, width);
      int32_t* index = indices + indptr[y * width + x];
      for (int64_t v = rows.first; v < rows.first + rows.count; ++v)
        for (int64_t u = columns.first; u < columns.first + columns.count; ++u)
          *index++ = int32_t(v * width + u);
    }
  for (int64_t y = 0; y < height - 2; ++y)
    for (int64_t x = 0; x < width - 2; ++x) {
      double window[3][9], k[kFactors], z[9][3];
      for (int c = 0; c < 3; ++c) {
        double mean = 0;
        for (int j = 0; j < 9; ++j)
          mean += (window[c][j] = image[((y + j / 3) * width + x + j % 3) * 3 + c]) / 9;
        for (double& value : window[c]) value -= mean;
      }
      window_factors(window, eps, k);
      for (int j = 0; j < 9; ++j) {  // z_j = K^T (I_j - mu)
        z[j][0] = k[0] * window[0][j];
        z[j][1] = k[1] * window[0][j] + k[3] * window[1][j];
        z[j][2] = k[2] * window[0][j] + k[4] * window[1][j] + k[5] * window[2][j];
      }
      for (int i = 0; i < 9; ++i) {
        const int64_t yi = y + i / 3, xi = x + i % 3;
        const Neighbours rows(yi, height), columns(xi, width);
        double* row = data + indptr[yi * width + xi];
        for (int j = 0; j < 9; ++j) {
          const double a = (1 + z[i][0] * z[j][0] + z[i][1] * z[j][1] + z[i][2] * z[j][2]) / 9;
          row[(y + j / 3 - rows.first) * columns.count + x + j % 3 - columns.first] += (i == j) - a;
        }
      }
    }
}

}  // namespace fastfcs
