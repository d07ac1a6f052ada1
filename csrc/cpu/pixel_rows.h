// Features in channels_last memory.
#pragma once

#include <cstdint>
#include <cstring>

namespace fastfcs {

// The channels of a pixel are contiguous and the pixels of a row adjacent. Rows and batch elements
// may lie apart.
template <typename T>
struct PixelRows {
  T* data;
  int64_t channels, height, width;
  int64_t row_pitch, batch_pitch;  // in elements

  T* row(int64_t b, int64_t y) const { return data + b * batch_pitch + y * row_pitch; }

  // The pixels inside a border of one pixel.
  PixelRows inside() const {
    return {data + row_pitch + channels, channels, height - 2, width - 2, row_pitch, batch_pitch};
  }
};

// Completes row y of the pixels inside a border: copies its first and last pixel, and the first and
// last row, to the border. Static, since objects for different instruction sets share no function.
template <typename T>
static inline void pad_row(const PixelRows<T>& to, int64_t b, int64_t y) {
  const int64_t c = to.channels, width = to.width, bytes = width * c * sizeof(T);
  T* const row = to.row(b, y + 1);
  std::memcpy(row, row + c, c * sizeof(T));
  std::memcpy(row + (width - 1) * c, row + (width - 2) * c, c * sizeof(T));
  if (y == 0) std::memcpy(to.row(b, 0), row, bytes);
  if (y == to.height - 3) std::memcpy(to.row(b, to.height - 1), row, bytes);
}

}  // namespace fastfcs
