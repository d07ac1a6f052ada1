// Features in channels_last memory.
#pragma once

#include <cstdint>

namespace fastfcs {

// The channels of a pixel are contiguous and the pixels of a row adjacent. Rows and batch elements
// may lie apart.
template <typename T>
struct PixelRows {
  T* data;
  int64_t channels, height, width;
  int64_t row_pitch, batch_pitch;  // in elements

  T* row(int64_t b, int64_t y) const { return data + b * batch_pitch + y * row_pitch; }
};

}  // namespace fastfcs
