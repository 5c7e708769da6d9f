#include "server.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

namespace guest {

namespace {

constexpr size_t kInputBytes = 64 * 1024;
/** Requests that were read and wait for a thread. More stay in the socket. */
constexpr size_t kWaitingMax = 256;

bool isName(Bytes name) {
  const bool dots = name.length <= 2 && memcmp("..", name.data, name.length) == 0;
  return !dots && name.length <= kNameMax && !memchr(name.data, '/', name.length) && !memchr(name.data, 0, name.length);
}

/** The other side's bytes, read in pieces that hold many requests. */
class Input {
 public:
  explicit Input(int fd) : fd_(fd), bytes_(kInputBytes) {}

  /** 1, 0 where the other side hung up before the first byte, or -1. */
  int take(void* target, size_t length) {
    size_t taken = 0;
    while (taken < length) {
      if (at_ == end_) {
        const ssize_t got = ::read(fd_, bytes_.data(), bytes_.size());
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return got == 0 && taken == 0 ? 0 : -1;
        at_ = 0;
        end_ = static_cast<size_t>(got);
      }
      const size_t part = std::min(length - taken, end_ - at_);
      memcpy(static_cast<uint8_t*>(target) + taken, &bytes_[at_], part);
      at_ += part;
      taken += part;
    }
    return 1;
  }

 private:
  const int fd_;
  std::vector<uint8_t> bytes_;
  size_t at_ = 0, end_ = 0;
};

struct Request {
  std::vector<uint8_t> bytes;
  ~Request() { explicit_bzero(bytes.data(), bytes.size()); }  // It may hold a key.
};

class Session {
 public:
  Session(int fd, Server& server) : fd_(fd), server_(server), input_(fd) {}

  int run(unsigned threads) {
    std::vector<std::thread> pool;
    for (unsigned i = 0; i < threads; i++) pool.emplace_back([this] { work(); });
    const int outcome = readRequests(threads == 0);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ended_ = true;
    }
    arrived_.notify_all();
    for (auto& thread : pool) thread.join();
    return outcome != 0 ? outcome : writeError_.load();
  }

 private:
  int readRequests(bool alone) {
    Reply reply;
    bool greeted = false;
    for (;;) {
      uint32_t length = 0;
      const int first = input_.take(&length, sizeof length);
      if (first <= 0) return first == 0 ? 0 : EPROTO;
      if (length < 5 || length > kRequestMax) return EPROTO;
      auto request = std::make_unique<Request>();
      request->bytes.resize(length);
      if (input_.take(request->bytes.data(), length) <= 0) return EPROTO;
      if (!greeted && request->bytes[4] != static_cast<uint8_t>(Operation::hello)) return EPROTO;
      greeted = true;
      if (alone) {
        answer(*request, reply);
      } else {
        std::unique_lock<std::mutex> lock(mutex_);
        taken_.wait(lock, [this] { return waiting_.size() < kWaitingMax; });
        waiting_.push_back(std::move(request));
        arrived_.notify_one();
      }
      if (writeError_ != 0) return 0;
    }
  }

  void work() {
    Reply reply;
    for (;;) {
      std::unique_ptr<Request> request;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        arrived_.wait(lock, [this] { return ended_ || !waiting_.empty(); });
        if (ended_) return;
        request = std::move(waiting_.front());
        waiting_.pop_front();
        taken_.notify_one();
      }
      answer(*request, reply);
    }
  }

  void answer(const Request& request, Reply& reply) {
    Cursor cursor({request.bytes.data(), request.bytes.size()});
    const uint32_t tag = cursor.u32();
    const auto operation = static_cast<Operation>(cursor.u8());
    reply.begin(tag);
    const Failure failure = perform(operation, cursor, reply);
    if (failure) reply.fail(tag, failure.error, failure.text);
    send(reply.frame());
  }

  Failure perform(Operation operation, Cursor& cursor, Reply& reply) {
    switch (operation) {
      case Operation::hello: return hello(cursor, reply);
      case Operation::volumes: return volumes(cursor, reply);
      case Operation::unlock: return unlock(cursor);
      case Operation::root: return root(cursor, reply);
      case Operation::lookup: return lookup(cursor, reply);
      case Operation::list: return list(cursor, reply);
      case Operation::readLink: return readLink(cursor, reply);
      case Operation::xattrs: return xattrs(cursor, reply);
      case Operation::read: return read(cursor, reply);
      case Operation::extents: return extents(cursor, reply);
      case Operation::statfs: return statfs(cursor, reply);
    }
    return {EOPNOTSUPP, "an unknown operation"};
  }

  static Failure malformed() { return {EINVAL, "a malformed request"}; }
  static Failure tooLong() { return {E2BIG, "more than a reply can hold"}; }

  Failure hello(Cursor& cursor, Reply& reply) {
    const uint32_t version = cursor.u32();
    if (!cursor.done()) return malformed();
    if (version != kVersion) return {EPROTONOSUPPORT, "this speaks version 1 of the protocol"};
    const std::string text =
        std::string(R"({"version":1,"server":")") + server_.kind() + R"(","built":")" + LIFEBOAT_BUILT + "\"}";
    reply.text(bytesOf(text));
    return {};
  }

  Failure volumes(Cursor& cursor, Reply& reply) {
    if (!cursor.done()) return malformed();
    std::string json;
    if (Failure failure = server_.volumes(json)) return failure;
    if (json.size() > kPayloadMax) return tooLong();
    reply.text(bytesOf(json));
    return {};
  }

  Failure unlock(Cursor& cursor) {
    const Bytes volume = cursor.text(), key = cursor.text();
    return cursor.done() ? server_.unlock(volume.text(), key) : malformed();
  }

  Failure root(Cursor& cursor, Reply& reply) {
    const Bytes volume = cursor.text();
    if (!cursor.done()) return malformed();
    Found found;
    if (Failure failure = server_.root(volume.text(), found)) return failure;
    return tell(found, reply);
  }

  Failure lookup(Cursor& cursor, Reply& reply) {
    const Bytes directory = cursor.node(), name = cursor.name();
    if (!cursor.done()) return malformed();
    Found found;
    if (Failure failure = server_.lookup(directory, name, found)) return failure;
    return tell(found, reply);
  }

  static Failure tell(const Found& found, Reply& reply) {
    reply.node(bytesOf(found.node));
    reply.attributes(found.attributes);
    return {};
  }

  Failure list(Cursor& cursor, Reply& reply) {
    const Bytes directory = cursor.node();
    const uint64_t position = cursor.u64();
    if (!cursor.done()) return malformed();
    Listing listing(reply);
    return server_.list(directory, position, listing);
  }

  Failure readLink(Cursor& cursor, Reply& reply) {
    const Bytes node = cursor.node();
    if (!cursor.done()) return malformed();
    std::string target;
    if (Failure failure = server_.readLink(node, target)) return failure;
    if (target.size() > kPayloadMax) return tooLong();
    reply.text(bytesOf(target));
    return {};
  }

  Failure xattrs(Cursor& cursor, Reply& reply) {
    const Bytes node = cursor.node();
    const uint32_t first = cursor.u32();
    if (!cursor.done()) return malformed();
    Xattrs xattrs(reply);
    return server_.xattrs(node, first, xattrs);
  }

  Failure read(Cursor& cursor, Reply& reply) {
    const Bytes node = cursor.node();
    const uint64_t offset = cursor.u64();
    size_t length = cursor.u32();
    if (!cursor.done() || length > kPayloadMax || offset > INT64_MAX - kPayloadMax) return malformed();
    if (Failure failure = server_.read(node, offset, reply.room(), length)) return failure;
    reply.grow(length);
    return {};
  }

  Failure extents(Cursor& cursor, Reply& reply) {
    const Bytes node = cursor.node();
    const uint64_t offset = cursor.u64(), length = cursor.u64();
    if (!cursor.done() || offset > INT64_MAX || length > INT64_MAX - offset) return malformed();
    Extents extents(reply);
    return server_.extents(node, offset, length, extents);
  }

  Failure statfs(Cursor& cursor, Reply& reply) {
    const Bytes volume = cursor.text();
    if (!cursor.done()) return malformed();
    Statfs figures;
    if (Failure failure = server_.statfs(volume.text(), figures)) return failure;
    reply.u32(figures.blockSize);
    for (const uint64_t value : {figures.blocks, figures.free, figures.files}) reply.u64(value);
    return {};
  }

  /** Whole frames, one after the other. */
  void send(Bytes frame) {
    std::lock_guard<std::mutex> lock(writing_);
    for (size_t at = 0; at < frame.length && writeError_ == 0;) {
      const ssize_t written = ::write(fd_, frame.data + at, frame.length - at);
      if (written >= 0) at += static_cast<size_t>(written);
      else if (errno != EINTR) writeError_ = errno;
    }
  }

  const int fd_;
  Server& server_;
  Input input_;
  std::mutex mutex_, writing_;
  std::condition_variable arrived_, taken_;
  std::deque<std::unique_ptr<Request>> waiting_;
  bool ended_ = false;
  std::atomic<int> writeError_{0};
};

}  // namespace

Listing::Listing(Reply& reply) : reply_(reply), start_(reply.used()) {
  reply_.u64(0);
  reply_.u32(0);
}

bool Listing::entry(Bytes name, Bytes node, const Attributes& attributes) {
  if (!isName(name)) return true;
  const bool damaged = attributes.kind == Kind::damaged;
  if (!damaged && (node.length == 0 || node.length > kNodeMax)) __builtin_trap();
  if (count_ > 0 && reply_.used() - start_ > kListBytes) return false;
  reply_.name(name);
  reply_.node(damaged ? Bytes{} : node);
  reply_.attributes(attributes);
  reply_.patch<uint32_t>(start_ + 8, ++count_);
  return true;
}

void Listing::goesOn(uint64_t position) { reply_.patch(start_, position); }

Xattrs::Xattrs(Reply& reply) : reply_(reply), start_(reply.used()) {
  reply_.u32(0);
  reply_.u32(0);
}

bool Xattrs::xattr(Bytes name, Bytes value) {
  if (!reply_.fits(8 + name.length + value.length)) return false;
  reply_.text(name);
  reply_.text(value);
  reply_.patch<uint32_t>(start_ + 4, ++count_);
  return true;
}

void Xattrs::goesOn(uint32_t first) { reply_.patch(start_, first); }

Extents::Extents(Reply& reply) : reply_(reply), start_(reply.used()) { reply_.u32(0); }

bool Extents::extent(uint64_t length, ExtentKind kind) {
  if (length == 0) return true;
  if (count_ >= kExtentsMax) return false;
  reply_.u64(length);
  reply_.u8(static_cast<uint8_t>(kind));
  reply_.patch<uint32_t>(start_, ++count_);
  return true;
}

int serve(int fd, Server& server, unsigned threads) { return Session(fd, server).run(threads); }

}  // namespace guest
