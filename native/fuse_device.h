// The calls of src/native/fuse-device.ts.
#pragma once
#include <node_api.h>

napi_value socketPair(napi_env env, napi_callback_info info);
napi_value receiveDescriptor(napi_env env, napi_callback_info info);
napi_value watchDescriptor(napi_env env, napi_callback_info info);
napi_value unwatchDescriptor(napi_env env, napi_callback_info info);
napi_value readDevice(napi_env env, napi_callback_info info);
napi_value writeDevice(napi_env env, napi_callback_info info);
