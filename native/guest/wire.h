// The bytes of docs/guest-protocol.md: what the agent inside the appliance and the sandboxed reader say and understand.
#pragma once
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

namespace guest {

constexpr uint32_t kVersion = 1;
constexpr size_t kRequestMax = 64 * 1024;
constexpr size_t kPayloadMax = 1024 * 1024;
constexpr size_t kReplyMax = kPayloadMax + 64 * 1024;
constexpr size_t kFailureTextMax = 4096;
constexpr size_t kNodeMax = 128;
constexpr size_t kNameMax = 255;
/** A page of a listing is full at this: about 1,700 entries. The client asks for the next one while it looks at it. */
constexpr size_t kListBytes = 256 * 1024;
constexpr size_t kExtentsMax = 4096;

enum class Operation : uint8_t { hello, volumes, unlock, root, lookup, list, readLink, xattrs, read, extents, statfs };

/** `damaged`: the name is there, what it names could not be read. Its node is empty. */
enum class Kind : uint8_t { damaged, file, directory, symlink, fifo, socket, characterDevice, blockDevice };

/** Extended attributes that come along with a file's other attributes, names and values together; of more, the client asks. */
constexpr size_t kXattrsAlong = 1024;

constexpr int64_t kUnknownTime = std::numeric_limits<int64_t>::min();

struct Xattr {
  std::string name, value;
};

struct Attributes {
  Kind kind = Kind::damaged;
  uint16_t permissions = 0;
  uint32_t links = 0, uid = 0, gid = 0, major = 0, minor = 0;
  uint64_t inode = 0, size = 0, allocated = 0;
  int64_t modified = 0, changed = 0, accessed = 0, born = kUnknownTime;
  /** With them nobody has to ask for each file whether it has an ACL, as `ls -l` does. */
  bool xattrsKnown = false;
  std::vector<Xattr> xattrs;
};

/** Nanoseconds since 1970; what is out of range becomes the nearest that is in it, and is not kUnknownTime. */
inline int64_t nanoseconds(int64_t seconds, uint32_t nanos) {
  int64_t whole, sum;
  if (__builtin_mul_overflow(seconds, int64_t{1000000000}, &whole) || __builtin_add_overflow(whole, int64_t{nanos}, &sum))
    return seconds < 0 ? kUnknownTime + 1 : std::numeric_limits<int64_t>::max();
  return sum == kUnknownTime ? sum + 1 : sum;
}

struct Bytes {
  const uint8_t* data = nullptr;
  size_t length = 0;
  std::string text() const { return {reinterpret_cast<const char*>(data), length}; }
};
inline Bytes bytesOf(const std::string& text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

/** Reads a request's body. After the first thing that is not there `ok()` is false, and everything else reads as nothing. */
class Cursor {
 public:
  explicit Cursor(Bytes bytes) : at_(bytes.data), end_(bytes.data + bytes.length) {}
  uint8_t u8() { return number<uint8_t>(); }
  uint16_t u16() { return number<uint16_t>(); }
  uint32_t u32() { return number<uint32_t>(); }
  uint64_t u64() { return number<uint64_t>(); }
  Bytes text() { return take(u32()); }
  Bytes node() { return bounded(u8(), kNodeMax); }
  /** One that a directory may have: neither empty, '.', '..', nor with a slash or a NUL in it. */
  Bytes name() {
    const Bytes name = bounded(u16(), kNameMax);
    const bool dots = name.length <= 2 && memcmp(name.data, "..", name.length) == 0;
    if (!ok_ || dots || memchr(name.data, '/', name.length) || memchr(name.data, 0, name.length)) ok_ = false;
    return name;
  }
  bool ok() const { return ok_; }
  /** All was there, and nothing is behind it. */
  bool done() const { return ok_ && at_ == end_; }

 private:
  template <typename T>
  T number() {
    T value = 0;
    const Bytes bytes = take(sizeof value);
    if (ok_) memcpy(&value, bytes.data, sizeof value);
    return value;
  }
  Bytes bounded(size_t length, size_t max) {
    if (length == 0 || length > max) ok_ = false;
    return take(length);
  }
  Bytes take(size_t length) {
    static const uint8_t nothing = 0;
    if (!ok_ || length > static_cast<size_t>(end_ - at_)) {
      ok_ = false;
      return {&nothing, 0};
    }
    const Bytes bytes{at_, length};
    at_ += length;
    return bytes;
  }

  const uint8_t* at_;
  const uint8_t* end_;
  bool ok_ = true;
};

/** One reply in the making; its memory is used again for the next. What does not fit is refused by `fits`, which is asked first. */
class Reply {
 public:
  Reply() : bytes_(kReplyMax) {}
  void begin(uint32_t tag) {
    used_ = 4;
    u32(tag);
    u16(0);
  }
  void fail(uint32_t tag, int error, const std::string& text) {
    used_ = 4;
    u32(tag);
    u16(static_cast<uint16_t>(error));
    put(text.data(), text.size() < kFailureTextMax ? text.size() : kFailureTextMax);
  }
  bool fits(size_t length) const { return length <= bytes_.size() - used_; }
  void u8(uint8_t value) { put(&value, sizeof value); }
  void u16(uint16_t value) { put(&value, sizeof value); }
  void u32(uint32_t value) { put(&value, sizeof value); }
  void u64(uint64_t value) { put(&value, sizeof value); }
  void i64(int64_t value) { put(&value, sizeof value); }
  void text(Bytes text) {
    u32(static_cast<uint32_t>(text.length));
    put(text.data, text.length);
  }
  void node(Bytes node) {
    u8(static_cast<uint8_t>(node.length));
    put(node.data, node.length);
  }
  void name(Bytes name) {
    u16(static_cast<uint16_t>(name.length));
    put(name.data, name.length);
  }
  void attributes(const Attributes& a) {
    u8(static_cast<uint8_t>(a.kind));
    u16(a.permissions);
    for (const uint32_t value : {a.links, a.uid, a.gid, a.major, a.minor}) u32(value);
    for (const uint64_t value : {a.inode, a.size, a.allocated}) u64(value);
    for (const int64_t value : {a.modified, a.changed, a.accessed, a.born}) i64(value);
    size_t length = 0;
    for (const Xattr& xattr : a.xattrs) length += 8 + xattr.name.size() + xattr.value.size();
    const bool along = a.xattrsKnown && length <= kXattrsAlong;
    u8(along);
    if (!along) return;
    u16(static_cast<uint16_t>(a.xattrs.size()));
    for (const Xattr& xattr : a.xattrs) {
      text(bytesOf(xattr.name));
      text(bytesOf(xattr.value));
    }
  }
  void put(const void* data, size_t length) {
    if (!fits(length)) __builtin_trap();
    if (length > 0) memcpy(&bytes_[used_], data, length);
    used_ += length;
  }
  size_t used() const { return used_; }
  /** Writes over what was put at `at`. */
  template <typename T>
  void patch(size_t at, T value) {
    memcpy(&bytes_[at], &value, sizeof value);
  }
  /** Room for what is read straight into the reply: `grow` says how much of it was filled. */
  uint8_t* room() { return &bytes_[used_]; }
  void grow(size_t length) {
    if (!fits(length)) __builtin_trap();
    used_ += length;
  }
  /** With its length in front, ready to be sent. */
  Bytes frame() {
    patch<uint32_t>(0, static_cast<uint32_t>(used_ - 4));
    return {bytes_.data(), used_};
  }

 private:
  std::vector<uint8_t> bytes_;
  size_t used_ = 4;
};

}  // namespace guest
