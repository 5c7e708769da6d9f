#include "sparse_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "arguments.h"
#include "batch.h"

// (fd, offset, 0 for data or 1 for a hole). Resolves to the offset, or to -errno.
napi_value seekFile(napi_env env, napi_callback_info info) {
  Arguments args(env, info, 3);
  const int fd = static_cast<int>(args.integer(0));
  const off_t offset = static_cast<off_t>(args.integer(1));
  const int whence = args.integer(2) == 0 ? SEEK_DATA : SEEK_HOLE;
  if (!args.ok()) return nullptr;
  auto found = std::make_shared<off_t>(0);
  Batch batch;
  batch.run = [=](unsigned) {
    *found = lseek(fd, offset, whence);
    if (*found < 0) *found = -errno;
  };
  batch.result = [=] { return static_cast<double>(*found); };
  return startBatch(env, {}, 1, std::move(batch));
}

// (fd, offset, length, 0 to reserve space or 1 to punch a hole). Resolves to 0, or to errno.
napi_value allocateFile(napi_env env, napi_callback_info info) {
  Arguments args(env, info, 4);
  const int fd = static_cast<int>(args.integer(0));
  const off_t offset = static_cast<off_t>(args.integer(1));
  const off_t length = static_cast<off_t>(args.integer(2));
  const int mode = args.integer(3) == 0 ? FALLOC_FL_KEEP_SIZE : FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  if (!args.ok()) return nullptr;
  auto failure = std::make_shared<int>(0);
  Batch batch;
  batch.run = [=](unsigned) {
    do {
      *failure = fallocate(fd, mode, offset, length) == 0 ? 0 : errno;
    } while (*failure == EINTR);
  };
  batch.result = [=] { return static_cast<double>(*failure); };
  return startBatch(env, {}, 1, std::move(batch));
}
