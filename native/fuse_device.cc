#include "fuse_device.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "arguments.h"
#include "batch.h"
#include "libuv.h"

namespace {

/** As many as a reply may have: its header, and 1 MiB in chunks of 4 KiB and two ends. */
constexpr uint32_t kPartsMax = 260;

/** What a watched descriptor calls; freed when libuv has closed the handle. */
struct Watch {
  napi_env env = nullptr;
  napi_ref callback = nullptr;
  napi_async_context context = nullptr;
};

napi_value number(napi_env env, double value) {
  napi_value result;
  napi_create_double(env, value, &result);
  return result;
}

void readable(uv_handle_s* handle, int, int) {
  const Watch& watch = *static_cast<Watch*>(uv_handle_get_data(handle));
  napi_handle_scope scope;
  napi_open_handle_scope(watch.env, &scope);
  napi_value callback, receiver, error;
  napi_get_reference_value(watch.env, watch.callback, &callback);
  napi_get_global(watch.env, &receiver);
  if (napi_make_callback(watch.env, watch.context, receiver, callback, 0, nullptr, nullptr) == napi_pending_exception) {
    napi_get_and_clear_last_exception(watch.env, &error);
    napi_fatal_exception(watch.env, error);
  }
  napi_close_handle_scope(watch.env, scope);
}

void closed(uv_handle_s* handle) {
  Watch* watch = static_cast<Watch*>(uv_handle_get_data(handle));
  napi_handle_scope scope;
  napi_open_handle_scope(watch->env, &scope);
  napi_delete_reference(watch->env, watch->callback);
  napi_async_destroy(watch->env, watch->context);
  napi_close_handle_scope(watch->env, scope);
  delete watch;
  free(handle);
}

/** The descriptor, or -errno: ENOTCONN where the peer closed without sending one. */
int receive(int socket, int timeoutMs) {
  pollfd wait{socket, POLLIN, 0};
  int ready;
  do {
    ready = poll(&wait, 1, timeoutMs);
  } while (ready < 0 && errno == EINTR);
  if (ready <= 0) return ready == 0 ? -ETIMEDOUT : -errno;
  char byte;
  iovec data{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t got;
  do {
    got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return -errno;
  const cmsghdr* header = got == 0 ? nullptr : CMSG_FIRSTHDR(&message);
  if (!header || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) return -ENOTCONN;
  int fd;
  memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return fd;
}

}  // namespace

// (). Two connected sockets that no child inherits unless it is given one: [fd, fd], or -errno.
napi_value socketPair(napi_env env, napi_callback_info) {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) return number(env, -errno);
  napi_value result;
  napi_create_array_with_length(env, 2, &result);
  for (uint32_t i = 0; i < 2; i++) napi_set_element(env, result, i, number(env, fds[i]));
  return result;
}

// (socket, timeoutMs). Resolves to the descriptor that the peer sends, or to -errno.
napi_value receiveDescriptor(napi_env env, napi_callback_info info) {
  Arguments args(env, info, 2);
  const int socket = static_cast<int>(args.integer(0));
  const int timeoutMs = static_cast<int>(args.integer(1));
  if (!args.ok()) return nullptr;
  auto received = std::make_shared<int>(0);
  Batch batch;
  batch.run = [=](unsigned) { *received = receive(socket, timeoutMs); };
  batch.result = [=] { return static_cast<double>(*received); };
  return startBatch(env, {}, 1, std::move(batch));
}

// (fd, callback). Makes it non-blocking and calls back whenever it can be read. The watch, for `unwatchDescriptor`, or -errno.
napi_value watchDescriptor(napi_env env, napi_callback_info info) {
  Arguments args(env, info, 2);
  const int fd = static_cast<int>(args.integer(0));
  uv_loop_s* loop = nullptr;
  if (!args.ok() || !args.must(napi_get_uv_event_loop(env, &loop) == napi_ok, "There is no event loop")) return nullptr;
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) return number(env, -errno);
  auto* handle = static_cast<uv_handle_s*>(calloc(1, uv_handle_size(kUvPoll)));
  const int failure = uv_poll_init(loop, handle, fd);
  if (failure != 0) {
    free(handle);
    return number(env, failure);
  }
  auto* watch = new Watch{env, nullptr, nullptr};
  napi_value name, result;
  napi_create_string_utf8(env, "lifeboat", NAPI_AUTO_LENGTH, &name);
  napi_async_init(env, nullptr, name, &watch->context);
  napi_create_reference(env, args.value(1), 1, &watch->callback);
  uv_handle_set_data(handle, watch);
  uv_poll_start(handle, kUvReadable, readable);
  napi_create_external(env, handle, nullptr, nullptr, &result);
  return result;
}

// (watch). Called once; the descriptor may be closed afterwards.
napi_value unwatchDescriptor(napi_env env, napi_callback_info info) {
  Arguments args(env, info, 1);
  void* handle = nullptr;
  if (!args.must(napi_get_value_external(env, args.value(0), &handle) == napi_ok, "A watch was expected")) return nullptr;
  uv_close(static_cast<uv_handle_s*>(handle), closed);
  return nullptr;
}

// (fd, target). At once, on this thread: the bytes read, or -errno.
napi_value readDevice(napi_env env, napi_callback_info info) {
  Arguments args(env, info, 2);
  const int fd = static_cast<int>(args.integer(0));
  const Bytes target = args.bytes(1);
  if (!args.ok()) return nullptr;
  ssize_t got;
  do {
    got = read(fd, target.data, target.length);
  } while (got < 0 && errno == EINTR);
  return number(env, got < 0 ? -errno : static_cast<double>(got));
}

// (fd, parts). At once, on this thread, the parts as one message: 0, or errno.
napi_value writeDevice(napi_env env, napi_callback_info info) {
  Arguments args(env, info, 2);
  const int fd = static_cast<int>(args.integer(0));
  uint32_t count = 0;
  if (!args.must(napi_get_array_length(env, args.value(1), &count) == napi_ok, "An array was expected")) return nullptr;
  if (!args.must(count <= kPartsMax, "A message has too many parts")) return nullptr;
  iovec parts[kPartsMax];
  for (uint32_t i = 0; i < count && args.ok(); i++) {
    napi_value part;
    napi_get_element(env, args.value(1), i, &part);
    const Bytes bytes = args.viewOf(part);
    parts[i] = {bytes.data, bytes.length};
  }
  if (!args.ok()) return nullptr;
  ssize_t written;
  do {
    written = writev(fd, parts, static_cast<int>(count));
  } while (written < 0 && errno == EINTR);
  return number(env, written < 0 ? errno : 0);
}
