// Serves docs/guest-protocol.md over a descriptor: requests are read, checked and handed to a `Server`, which knows the filesystem.
#pragma once
#include <cstdint>
#include <string>

#include "wire.h"

namespace guest {

/** errno of Linux, and a text for people. */
struct Failure {
  int error = 0;
  std::string text;
  explicit operator bool() const { return error != 0; }
};

struct Found {
  std::string node;
  Attributes attributes;
};

/** One page of a directory. */
class Listing {
 public:
  explicit Listing(Reply& reply);
  /** False: the page is full and has not taken it. The first entry of a page is always taken. Names that are none are left out (true). */
  bool entry(Bytes name, Bytes node, const Attributes& attributes);
  uint32_t count() const { return count_; }
  /** Where the next page goes on: anything but 0. Without it that was all. */
  void goesOn(uint64_t position);

 private:
  Reply& reply_;
  size_t start_;
  uint32_t count_ = 0;
};

/** Extended attributes of one file: those that fit, from the `first` on. */
class Xattrs {
 public:
  explicit Xattrs(Reply& reply);
  /** False: it is full and has not taken this one. */
  bool xattr(Bytes name, Bytes value);
  void goesOn(uint32_t first);

 private:
  Reply& reply_;
  size_t start_;
  uint32_t count_ = 0;
};

enum class ExtentKind : uint8_t { data, hole };

class Extents {
 public:
  explicit Extents(Reply& reply);
  /** False: no more are taken. They follow each other from the offset that was asked for. */
  bool extent(uint64_t length, ExtentKind kind);

 private:
  Reply& reply_;
  size_t start_;
  uint32_t count_ = 0;
};

struct Statfs {
  uint32_t blockSize = 0;
  uint64_t blocks = 0, free = 0, files = 0;
};

/**
 * What the agent and the reader implement. Nodes are opaque bytes of their choice (1 to 128), valid while the connection is.
 * With more than one thread, calls overlap. A directory's positions are the server's: anything but 0, which is the beginning.
 */
class Server {
 public:
  virtual ~Server() = default;
  virtual const char* kind() const = 0;
  virtual Failure volumes(std::string& json) = 0;
  virtual Failure unlock(const std::string& volume, Bytes key) = 0;
  virtual Failure root(const std::string& volume, Found& found) = 0;
  virtual Failure lookup(Bytes directory, Bytes name, Found& found) = 0;
  virtual Failure list(Bytes directory, uint64_t position, Listing& listing) = 0;
  virtual Failure readLink(Bytes node, std::string& target) = 0;
  virtual Failure xattrs(Bytes node, uint32_t first, Xattrs& xattrs) = 0;
  /** Fills `target`; `length` is what was asked for, then what was read: less only at the file's end. */
  virtual Failure read(Bytes node, uint64_t offset, uint8_t* target, size_t& length) = 0;
  virtual Failure extents(Bytes node, uint64_t offset, uint64_t length, Extents& extents) = 0;
  virtual Failure statfs(const std::string& volume, Statfs& statfs) = 0;
};

/**
 * Serves until the other side hangs up (0), breaks the protocol (EPROTO) or cannot be written to (errno).
 * `threads` 0: everything in the calling thread, so that a sandbox may forbid others; else a pool of so many.
 */
int serve(int fd, Server& server, unsigned threads);

}  // namespace guest
