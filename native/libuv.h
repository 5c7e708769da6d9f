// What of libuv the addon calls. Node exports it, and its version 1 promises these for good; its headers come with neither the
// npm package of Node nor with node-api-headers.
#pragma once
#include <cstddef>

extern "C" {
struct uv_loop_s;
struct uv_handle_s;
using uv_poll_callback = void (*)(uv_handle_s* handle, int status, int events);
using uv_close_callback = void (*)(uv_handle_s* handle);

size_t uv_handle_size(int type);
void uv_handle_set_data(uv_handle_s* handle, void* data);
void* uv_handle_get_data(const uv_handle_s* handle);
void uv_close(uv_handle_s* handle, uv_close_callback callback);
int uv_poll_init(uv_loop_s* loop, uv_handle_s* handle, int fd);
int uv_poll_start(uv_handle_s* handle, int events, uv_poll_callback callback);
}

constexpr int kUvPoll = 8;
constexpr int kUvReadable = 1;
