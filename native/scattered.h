// Reads and writes of many blocks at many places of one file in one call, each block with its checksum; and file locks.
#pragma once
#include <node_api.h>

napi_value writeBlocks(napi_env env, napi_callback_info info);
napi_value readBlocks(napi_env env, napi_callback_info info);
napi_value lockFile(napi_env env, napi_callback_info info);
