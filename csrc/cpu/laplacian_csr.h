// The matting Laplacian of one image as an explicit sparse matrix (CSR). Row i holds every pixel up
// to two rows and two columns away from pixel i, in row-major order.
#pragma once

#include <cstdint>

namespace fastfcs {

// Writes the row pointers, indptr [height * width + 1], and returns the number of entries.
// Throws std::invalid_argument if they exceed 2^31 - 1.
int64_t laplacian_csr_rows(int64_t height, int64_t width, int32_t* indptr);

// Writes the entries' columns and values, indices and data [entries], of image [height, width, 3].
void laplacian_csr_entries(const double* image, int64_t height, int64_t width, double eps,
                           const int32_t* indptr, int32_t* indices, double* data);

}  // namespace fastfcs
