// The calls of src/native/addon-pipeline.ts that open records: into memory, and into a file.
#pragma once
#include <node_api.h>

napi_value openChunks(napi_env env, napi_callback_info info);
napi_value writeChunks(napi_env env, napi_callback_info info);
