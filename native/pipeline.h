// The calls of src/native/addon-pipeline.ts.
#pragma once
#include <node_api.h>

napi_value digestChunks(napi_env env, napi_callback_info info);
napi_value digestUnits(napi_env env, napi_callback_info info);
napi_value limitLanes(napi_env env, napi_callback_info info);
napi_value compressChunks(napi_env env, napi_callback_info info);
napi_value sealChunks(napi_env env, napi_callback_info info);
