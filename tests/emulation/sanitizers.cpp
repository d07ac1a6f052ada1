// Handlers of the compiler's sanitizers (alignment, signed-integer-overflow), which end the launch
// with an error.
#include <string>

#include "emulation.h"

namespace {

struct Place {  // in the source; the first member of every handler's data
  const char* file;
  unsigned line;
};

[[noreturn]] void fail(const char* what, const void* data) {
  const Place& place = *static_cast<const Place*>(data);
  emulation::fail(std::string(what) + " (" + place.file + ":" + std::to_string(place.line) + ")");
}

}  // namespace

extern "C" {

[[noreturn]] void __ubsan_handle_type_mismatch_v1_abort(void* data, void*) {
  fail("a misaligned access", data);
}
[[noreturn]] void __ubsan_handle_add_overflow_abort(void* data, void*, void*) {
  fail("an integer overflow", data);
}
[[noreturn]] void __ubsan_handle_sub_overflow_abort(void* data, void*, void*) {
  fail("an integer overflow", data);
}
[[noreturn]] void __ubsan_handle_mul_overflow_abort(void* data, void*, void*) {
  fail("an integer overflow", data);
}
[[noreturn]] void __ubsan_handle_divrem_overflow_abort(void* data, void*, void*) {
  fail("an integer overflow", data);
}
[[noreturn]] void __ubsan_handle_negate_overflow_abort(void* data, void*) {
  fail("an integer overflow", data);
}

}  // extern "C"
