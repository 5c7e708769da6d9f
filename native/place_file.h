// The call of src/native/place-file.ts.
#pragma once
#include <node_api.h>

napi_value placeFile(napi_env env, napi_callback_info info);
