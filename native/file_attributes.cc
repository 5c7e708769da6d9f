// What Node's fs does not have: extended attributes, times in nanoseconds, device nodes, and a rename that replaces nothing.
// None of them follows a link at the end of its path.
#include "file_attributes.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "arguments.h"
#include "batch.h"

namespace {

/** A path or name for the kernel: a byte of zero would end it early. */
std::string textOf(Arguments& args, size_t index) {
  const Bytes bytes = args.bytes(index);
  if (!args.ok()) return {};
  const std::string text(reinterpret_cast<const char*>(bytes.data), bytes.length);
  args.must(text.find('\0') == std::string::npos, "A path or name has a NUL");
  return text;
}

/** `call` gives 0 or more, or -1 with errno; the promise resolves to that or to -errno. */
napi_value start(napi_env env, const std::vector<napi_value>& keep, std::function<ssize_t()> call) {
  auto outcome = std::make_shared<ssize_t>(0);
  Batch batch;
  batch.run = [=](unsigned) {
    *outcome = call();
    if (*outcome < 0) *outcome = -errno;
  };
  batch.result = [=] { return static_cast<double>(*outcome); };
  return startBatch(env, keep, 1, std::move(batch));
}

/** Appends u32 length, bytes. False where there is no room. */
bool put(Bytes target, size_t& at, const void* data, size_t length) {
  if (length > target.length || at + 4 > target.length - length) return false;
  const uint32_t stored = static_cast<uint32_t>(length);
  memcpy(target.data + at, &stored, 4);
  if (length > 0) memcpy(target.data + at + 4, data, length);
  at += 4 + length;
  return true;
}

ssize_t tooSmall() {
  errno = ERANGE;
  return -1;
}

ssize_t readAll(const std::string& path, Bytes target) {
  // The kernel's own bounds: XATTR_LIST_MAX and XATTR_SIZE_MAX.
  std::vector<char> names(65536), value(65536);
  const ssize_t listed = llistxattr(path.c_str(), names.data(), names.size());
  if (listed < 0) return errno == ENOTSUP ? 0 : -1;
  size_t at = 0;
  for (ssize_t from = 0; from < listed;) {
    const char* name = names.data() + from;
    const size_t length = strnlen(name, listed - from);
    from += length + 1;
    const ssize_t size = lgetxattr(path.c_str(), name, value.data(), value.size());
    // Removed since, or listed by a filesystem that has no value for it.
    if (size < 0 && (errno == ENODATA || errno == ENOTSUP)) continue;
    if (size < 0) return -1;
    if (!put(target, at, name, length) || !put(target, at, value.data(), size)) return tooSmall();
  }
  return static_cast<ssize_t>(at);
}

}  // namespace

// (path, name, value). Resolves to 0, or to -errno.
napi_value setFileXattr(napi_env env, napi_callback_info info) {
  Arguments args(env, info, 3);
  const std::string path = textOf(args, 0), name = textOf(args, 1);
  const Bytes value = args.bytes(2);
  if (!args.ok()) return nullptr;
  return start(env, {args.value(2)}, [=] { return lsetxattr(path.c_str(), name.c_str(), value.data, value.length, 0); });
}

// (path, target). Fills it with u32 length, name, u32 length, value of each. Resolves to the bytes used, or to -errno: -ERANGE
// where they do not fit.
napi_value readFileXattrs(napi_env env, napi_callback_info info) {
  Arguments args(env, info, 2);
  const std::string path = textOf(args, 0);
  const Bytes target = args.bytes(1);
  if (!args.ok()) return nullptr;
  return start(env, {args.value(1)}, [=] { return readAll(path, target); });
}

// (path, times: seconds i64, nanoseconds i64 of the last access, the same of the last change). Resolves to 0, or to -errno.
napi_value setFileTimes(napi_env env, napi_callback_info info) {
  Arguments args(env, info, 2);
  const std::string path = textOf(args, 0);
  const Bytes given = args.bytes(1);
  if (!args.must(given.length == 32, "Two times have 32 bytes")) return nullptr;
  int64_t words[4];
  memcpy(words, given.data, sizeof words);
  return start(env, {}, [=] {
    const timespec times[2] = {{words[0], static_cast<long>(words[1])}, {words[2], static_cast<long>(words[3])}};
    return utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW);
  });
}

// (path, mode with the kind, major, minor). Resolves to 0, or to -errno.
napi_value makeSpecialFile(napi_env env, napi_callback_info info) {
  Arguments args(env, info, 4);
  const std::string path = textOf(args, 0);
  const mode_t mode = static_cast<mode_t>(args.integer(1));
  const unsigned high = static_cast<unsigned>(args.integer(2)), low = static_cast<unsigned>(args.integer(3));
  if (!args.ok()) return nullptr;
  return start(env, {}, [=] { return mknod(path.c_str(), mode, makedev(high, low)); });
}

// (from, to). Resolves to 0, or to -errno: -EEXIST where there is something already, -EINVAL where this filesystem cannot tell.
napi_value renameToNew(napi_env env, napi_callback_info info) {
  Arguments args(env, info, 2);
  const std::string from = textOf(args, 0), to = textOf(args, 1);
  if (!args.ok()) return nullptr;
  return start(env, {}, [=] { return renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE); });
}
