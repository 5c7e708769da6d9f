// The calls of src/native/sparse-file.ts.
#pragma once
#include <node_api.h>

napi_value seekFile(napi_env env, napi_callback_info info);
napi_value allocateFile(napi_env env, napi_callback_info info);
