// A file made whole in one call off the thread of JavaScript: contents, owner, times, attributes, permissions, then its name. In
// a restore of small files the hand-overs to a thread, seven for each file, took longer than what they were for.
#include "place_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "arguments.h"
#include "batch.h"

namespace {

/** What failed: those of src/native/place-file.ts. */
enum class Step { contents = 1, attributes = 2, name = 3 };

struct __attribute__((packed)) Dress {
  uint32_t uid, gid, mode, replaces;
  int64_t accessed[2], modified[2];
};

struct Xattr {
  std::string name;
  Bytes value;
  bool isAcl() const { return name.rfind("system.", 0) == 0; }
};

struct Placing {
  std::string part, path;
  Bytes contents;
  /** Below 0: the part is made. Else it is open there, and has its contents. */
  int fd = -1;
  Dress dress;
  std::vector<Xattr> xattrs;
};

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  const int fd_;
};

double failed(Step step) { return static_cast<double>(static_cast<int>(step) * 4096 + errno); }

bool writeAll(int fd, Bytes bytes) {
  for (size_t at = 0; at < bytes.length;) {
    const ssize_t written = pwrite(fd, bytes.data + at, bytes.length - at, static_cast<off_t>(at));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    at += static_cast<size_t>(written);
  }
  return true;
}

bool setXattrs(int fd, const std::vector<Xattr>& xattrs, bool acls) {
  for (const Xattr& each : xattrs)
    if (each.isAcl() == acls && fsetxattr(fd, each.name.c_str(), each.value.data, each.value.length, 0) != 0) return false;
  return true;
}

/** In the order of set-attributes.ts, which has the reasons. */
bool dress(int fd, const Placing& placing) {
  const Dress& given = placing.dress;
  const timespec times[2] = {{given.accessed[0], static_cast<long>(given.accessed[1])},
                             {given.modified[0], static_cast<long>(given.modified[1])}};
  return fchown(fd, given.uid, given.gid) == 0 && futimens(fd, times) == 0 && setXattrs(fd, placing.xattrs, false) &&
         fchmod(fd, given.mode) == 0 && setXattrs(fd, placing.xattrs, true);
}

double place(const Placing& placing) {
  const bool isNew = placing.fd < 0;
  const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  const Descriptor made(isNew ? open(placing.part.c_str(), flags, 0600) : -1);
  const int fd = isNew ? made.get() : placing.fd;
  if (fd < 0 || (isNew && !writeAll(fd, placing.contents))) return failed(Step::contents);
  if (!dress(fd, placing)) return failed(Step::attributes);
  const unsigned rule = placing.dress.replaces ? 0 : RENAME_NOREPLACE;
  return renameat2(AT_FDCWD, placing.part.c_str(), AT_FDCWD, placing.path.c_str(), rule) == 0 ? 0 : failed(Step::name);
}

std::string textOf(Arguments& args, Bytes bytes) {
  const std::string text(reinterpret_cast<const char*>(bytes.data), bytes.length);
  args.must(text.find('\0') == std::string::npos, "A path or name has a NUL");
  return text;
}

/** u32 length, name, u32 length, value of each. */
void takeXattrs(Arguments& args, Bytes packed, Placing& placing) {
  const auto take = [&](size_t& at) {
    uint32_t length = 0;
    if (!args.must(packed.length - at >= sizeof length, "An attribute ends too early")) return Bytes{};
    memcpy(&length, packed.data + at, sizeof length);
    at += sizeof length;
    if (!args.must(packed.length - at >= length, "An attribute ends too early")) return Bytes{};
    const Bytes bytes{packed.data + at, length};
    at += length;
    return bytes;
  };
  for (size_t at = 0; args.ok() && at < packed.length;) {
    const Bytes name = take(at), value = take(at);
    if (args.ok()) placing.xattrs.push_back({textOf(args, name), value});
  }
}

}  // namespace

// (part, contents, descriptor + 1, dress, attributes, path). Resolves to 0, or to 4096 x step + errno.
napi_value placeFile(napi_env env, napi_callback_info info) {
  Arguments args(env, info, 6);
  auto placing = std::make_shared<Placing>();
  const Bytes part = args.bytes(0), given = args.bytes(3), path = args.bytes(5);
  placing->contents = args.bytes(1);
  placing->fd = static_cast<int>(args.integer(2)) - 1;
  if (!args.must(given.length == sizeof(Dress), "Owner, mode, rule and times have 48 bytes")) return nullptr;
  memcpy(&placing->dress, given.data, sizeof(Dress));
  placing->part = textOf(args, part);
  placing->path = textOf(args, path);
  takeXattrs(args, args.bytes(4), *placing);
  if (!args.ok()) return nullptr;
  auto outcome = std::make_shared<double>(0);
  Batch batch;
  batch.run = [=](unsigned) { *outcome = place(*placing); };
  batch.result = [=] { return *outcome; };
  return startBatch(env, {args.value(1), args.value(4)}, 1, std::move(batch));
}
