#include "scattered.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/file.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "arguments.h"
#include "batch.h"

namespace {

constexpr size_t kBlock = 4096;

struct Run {
  off_t position;
  std::vector<iovec> parts;
};

/** What one call works on: neighbours in the file are one run, and `checks` gets the low half of XXH3 of each block. */
struct Blocks {
  int fd = -1;
  std::vector<Run> runs;
  std::vector<Bytes> parts;
  uint32_t* checks = nullptr;
  int failure = 0;

  void check() const {
    size_t block = 0;
    for (const Bytes& part : parts)
      for (size_t at = 0; at < part.length; at += kBlock)
        checks[block++] = static_cast<uint32_t>(XXH3_64bits(part.data + at, kBlock));
  }
};

using Transfer = ssize_t (*)(int, const iovec*, int, off_t);

/** 0 or errno; ENODATA where the file ends too early. */
int transfer(Transfer call, int fd, Run& run) {
  size_t first = 0;
  off_t position = run.position;
  while (first < run.parts.size()) {
    const int count = static_cast<int>(std::min<size_t>(run.parts.size() - first, IOV_MAX));
    ssize_t done = call(fd, &run.parts[first], count, position);
    if (done < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    if (done == 0) return ENODATA;
    position += done;
    while (first < run.parts.size() && static_cast<size_t>(done) >= run.parts[first].iov_len)
      done -= run.parts[first++].iov_len;
    if (done > 0) {
      run.parts[first].iov_base = static_cast<char*>(run.parts[first].iov_base) + done;
      run.parts[first].iov_len -= done;
    }
  }
  return 0;
}

/** (parts, checks) from the given place on: whole blocks, and a check for each. */
void takeParts(napi_env env, Arguments& args, size_t index, Blocks& blocks) {
  uint32_t count = 0;
  if (!args.must(napi_get_array_length(env, args.value(index), &count) == napi_ok, "An array was expected")) return;
  const Bytes checks = args.words(index + 1);
  size_t total = 0;
  for (uint32_t i = 0; i < count && args.ok(); i++) {
    napi_value part;
    napi_get_element(env, args.value(index), i, &part);
    blocks.parts.push_back(args.viewOf(part));
    total += blocks.parts.back().length;
    args.must(blocks.parts.back().length % kBlock == 0, "A part is not whole blocks");
  }
  args.must(checks.length == total / kBlock * 4, "There is not one check for each block");
  blocks.checks = reinterpret_cast<uint32_t*>(checks.data);
}

std::shared_ptr<Blocks> takeBlocks(napi_env env, Arguments& args) {
  auto blocks = std::make_shared<Blocks>();
  blocks->fd = static_cast<int>(args.integer(0));
  takeParts(env, args, 1, *blocks);
  const Bytes positions = args.viewOf(args.value(3), napi_float64_array);
  if (!args.must(positions.length == blocks->parts.size() * sizeof(double), "There is not one position for each part")) return nullptr;
  const double* at = reinterpret_cast<const double*>(positions.data);
  off_t end = -1;
  for (size_t i = 0; i < blocks->parts.size(); i++) {
    const Bytes& part = blocks->parts[i];
    if (!args.must(at[i] >= 0 && at[i] <= 9007199254740991.0, "A position is outside a file")) return nullptr;
    if (part.length == 0) continue;
    const off_t position = static_cast<off_t>(at[i]);
    if (position != end) blocks->runs.push_back({position, {}});
    blocks->runs.back().parts.push_back({part.data, part.length});
    end = position + static_cast<off_t>(part.length);
  }
  return args.ok() ? blocks : nullptr;
}

napi_value start(napi_env env, Arguments& args, std::shared_ptr<Blocks> blocks, std::function<void()> run) {
  Batch batch;
  batch.run = [run = std::move(run)](unsigned) { run(); };
  batch.result = [=] { return static_cast<double>(blocks->failure); };
  return startBatch(env, args.values(), 1, std::move(batch));
}

int transferAll(Transfer call, Blocks& blocks) {
  for (Run& run : blocks.runs)
    if (const int failure = transfer(call, blocks.fd, run)) return failure;
  return 0;
}

}  // namespace

// (fd, parts, checks, positions: Float64Array with one for each part, log fd, record, its position, 1 to do it at once).
// Writes the parts; then gives the record, into which `checks` may be a view, the XXH3-64 of what follows in its first 8
// bytes, and writes it. 0, or errno of the first write that failed, after which none was tried; as a promise unless at once.
napi_value writeBlocks(napi_env env, napi_callback_info info) {
  Arguments args(env, info, 8);
  auto blocks = takeBlocks(env, args);
  const int log = static_cast<int>(args.integer(4));
  const Bytes record = args.bytes(5);
  const off_t position = static_cast<off_t>(args.integer(6));
  const bool now = args.integer(7) == 1;
  if (!args.must(record.length == 0 || record.length >= 8, "A record is too short") || !blocks) return nullptr;
  auto run = [=] {
    blocks->check();
    blocks->failure = transferAll(pwritev, *blocks);
    if (blocks->failure != 0 || record.length == 0) return;
    const uint64_t sum = XXH3_64bits(record.data + 8, record.length - 8);
    memcpy(record.data, &sum, 8);
    Run whole{position, {{record.data, record.length}}};
    blocks->failure = transfer(pwritev, log, whole);
  };
  if (!now) return start(env, args, blocks, run);
  run();
  napi_value result;
  napi_create_double(env, blocks->failure, &result);
  return result;
}

// The same for reading: `checks` are those of what was read.
napi_value readBlocks(napi_env env, napi_callback_info info) {
  Arguments args(env, info, 4);
  auto blocks = takeBlocks(env, args);
  if (!blocks) return nullptr;
  return start(env, args, blocks, [=] {
    blocks->failure = transferAll(preadv, *blocks);
    if (blocks->failure == 0) blocks->check();
  });
}

// (fd). Takes the file's exclusive lock (flock), which ends with the open file. 0, or errno: EWOULDBLOCK where it is taken.
napi_value lockFile(napi_env env, napi_callback_info info) {
  Arguments args(env, info, 1);
  const int fd = static_cast<int>(args.integer(0));
  if (!args.ok()) return nullptr;
  napi_value result;
  napi_create_double(env, flock(fd, LOCK_EX | LOCK_NB) == 0 ? 0 : errno, &result);
  return result;
}
