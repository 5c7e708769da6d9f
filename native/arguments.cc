#include "arguments.h"

Arguments::Arguments(napi_env env, napi_callback_info info, size_t expected) : env_(env), values_(expected) {
  size_t count = expected;
  napi_get_cb_info(env, info, &count, values_.data(), nullptr, nullptr);
  must(count == expected, "A call of the addon has the wrong number of arguments");
}

bool Arguments::must(bool condition, const char* message) {
  if (!condition && ok_) {
    ok_ = false;
    napi_throw_range_error(env_, nullptr, message);
  }
  return ok_;
}

Bytes Arguments::viewOf(napi_value value, napi_typedarray_type wanted) {
  if (!ok_) return {};
  bool yes = false;
  if (!must(napi_is_typedarray(env_, value, &yes) == napi_ok && yes, "A typed array was expected")) return {};
  napi_typedarray_type type;
  size_t length = 0;
  void* data = nullptr;
  napi_value buffer;
  const napi_status status = napi_get_typedarray_info(env_, value, &type, &length, &data, &buffer, nullptr);
  if (!must(status == napi_ok && type == wanted, "A typed array has the wrong type")) return {};
  if (!must(napi_is_arraybuffer(env_, buffer, &yes) == napi_ok && yes, "Shared memory is refused")) return {};
  if (!must(napi_is_detached_arraybuffer(env_, buffer, &yes) == napi_ok && !yes, "Detached memory is refused")) return {};
  const size_t width = wanted == napi_float64_array ? 8 : wanted == napi_uint32_array ? 4 : 1;
  return {static_cast<uint8_t*>(data), length * width};
}

uint64_t Arguments::integer(size_t index) {
  if (!ok_) return 0;
  double number = -1;
  napi_get_value_double(env_, value(index), &number);
  const bool whole = number >= 0 && number <= 9007199254740991.0 && number == static_cast<double>(static_cast<uint64_t>(number));
  return must(whole, "A whole number was expected") ? static_cast<uint64_t>(number) : 0;
}
