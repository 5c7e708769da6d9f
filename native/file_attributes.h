// The calls of src/native/file-attributes.ts.
#pragma once
#include <node_api.h>

napi_value setFileXattr(napi_env env, napi_callback_info info);
napi_value readFileXattrs(napi_env env, napi_callback_info info);
napi_value setFileTimes(napi_env env, napi_callback_info info);
napi_value makeSpecialFile(napi_env env, napi_callback_info info);
napi_value renameToNew(napi_env env, napi_callback_info info);
