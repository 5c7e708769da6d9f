// Arguments from JavaScript. TypeScript has checked them already; whatever could make the addon touch foreign memory is
// checked again here. A failed check leaves a pending RangeError and `ok()` false.
#pragma once
#include <node_api.h>

#include <cstdint>
#include <cstring>
#include <vector>

struct Bytes {
  uint8_t* data = nullptr;
  size_t length = 0;
};

class Arguments {
 public:
  Arguments(napi_env env, napi_callback_info info, size_t expected);

  bool ok() const { return ok_; }
  /** Throws RangeError where the condition does not hold. */
  bool must(bool condition, const char* message);
  napi_value value(size_t index) const { return values_[index]; }
  const std::vector<napi_value>& values() const { return values_; }

  /** A view on a Uint8Array whose memory is neither shared nor detached. */
  Bytes bytes(size_t index) { return viewOf(value(index)); }
  Bytes viewOf(napi_value value, napi_typedarray_type type = napi_uint8_array);
  /** A view on a Uint32Array, length in bytes. */
  Bytes words(size_t index) { return viewOf(value(index), napi_uint32_array); }
  /** A view on a Float64Array, length in bytes. */
  Bytes numbers(size_t index) { return viewOf(value(index), napi_float64_array); }
  /** An integer of 0 to 2^53 - 1. */
  uint64_t integer(size_t index);

 private:
  napi_env env_;
  std::vector<napi_value> values_;
  bool ok_ = true;
};
