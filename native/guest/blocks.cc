#include "blocks.h"

#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "stopwatch.h"

namespace {

// The other side is gone, and with it everybody who could be answered.
[[noreturn]] void hangUp() { _exit(0); }

void readFully(int fd, void* target, size_t length) {
  for (size_t done = 0; done < length;) {
    const ssize_t count = ::read(fd, static_cast<uint8_t*>(target) + done, length - done);
    if (count > 0)
      done += static_cast<size_t>(count);
    else if (count == 0 || errno != EINTR)
      hangUp();
  }
}

void writeFully(int fd, const void* bytes, size_t length) {
  for (size_t done = 0; done < length;) {
    const ssize_t count = ::write(fd, static_cast<const uint8_t*>(bytes) + done, length - done);
    if (count > 0)
      done += static_cast<size_t>(count);
    else if (errno != EINTR)
      hangUp();
  }
}

struct __attribute__((packed)) RequestHeader {
  uint32_t tag, disk;
  uint64_t offset;
  uint32_t length;
};

struct __attribute__((packed)) AnswerHeader {
  uint32_t tag, error, length;
};

}  // namespace

Blocks::Blocks(int fd, std::vector<Disk> disks) : fd_(fd), disks_(std::move(disks)) {}

void Blocks::receive() {
  for (;;) {
    AnswerHeader header;
    readFully(fd_, &header, sizeof header);
    answer(header.tag, header.error, header.length);
  }
}

void Blocks::answer(uint32_t tag, uint32_t error, uint32_t length) {
  Request request;
  {
    std::lock_guard<std::mutex> guard(lock_);
    const auto found = requests_.find(tag);
    if (found == requests_.end() || length != (error ? 0 : found->second.length)) hangUp();
    request = std::move(found->second);
    requests_.erase(found);
  }
  // Nobody looks at these bytes before they are marked.
  if (!error && request.direct) readFully(fd_, request.direct->target, length);
  if (!error)
    for (const Shared& block : request.blocks) readFully(fd_, block->bytes.data(), block->bytes.size());
  std::lock_guard<std::mutex> guard(lock_);
  if (request.direct) {
    request.direct->isDone = true;
    request.direct->error = static_cast<int>(error);
  }
  for (size_t i = 0; i < request.blocks.size(); i++) {
    Block& block = *request.blocks[i];
    block.isLoading = false;
    block.error = static_cast<int>(error);
    if (error == 0) continue;
    // The next one who wants it asks again.
    ages_.erase(block.age);
    blocks_.erase(request.first + i);
  }
  arrived_.notify_all();
}

int Blocks::read(uint32_t disk, const std::vector<Piece>& pieces) {
  // What is waited for: at most one request's worth of small pieces, or the large ones of a file's read.
  std::vector<std::pair<const Piece*, Shared>> cached;
  std::vector<std::shared_ptr<Direct>> direct;
  std::unique_lock<std::mutex> guard(lock_);
  for (const Piece& piece : pieces) {
    if (piece.length >= 4 * kBlock) {
      for (size_t done = 0; done < piece.length; done += kRequest) {
        auto wanted = std::make_shared<Direct>();
        wanted->target = piece.target + done;
        direct.push_back(wanted);
        Request request;
        request.length = std::min(kRequest, piece.length - done);
        request.direct = wanted;
        ask(disk, piece.offset + done, std::move(request));
      }
      continue;
    }
    if (piece.length == 0) continue;
    for (uint64_t index = piece.offset / kBlock; index * kBlock < piece.offset + piece.length; index++)
      cached.emplace_back(&piece, blockOf(disk, index));
  }
  int error = 0;
  {
    const Waiting waiting;
    // All are waited for, whatever fails: the receiver writes into their memory.
    for (const auto& wanted : direct) arrived_.wait(guard, [&] { return wanted->isDone; });
    for (const auto& [piece, block] : cached) arrived_.wait(guard, [&, &block = block] { return !block->isLoading; });
  }
  guard.unlock();
  for (const auto& wanted : direct)
    if (wanted->error) error = wanted->error;
  const Piece* last = nullptr;
  uint64_t index = 0;
  for (const auto& [piece, block] : cached) {
    index = piece == last ? index + 1 : piece->offset / kBlock;
    last = piece;
    if (block->error) {
      error = block->error;
      continue;
    }
    const uint64_t start = index * kBlock;
    const uint64_t from = std::max(start, piece->offset);
    const uint64_t to = std::min(start + block->bytes.size(), piece->offset + piece->length);
    memcpy(piece->target + (from - piece->offset), block->bytes.data() + (from - start), to - from);
  }
  return error;
}

// The lock is held.
Blocks::Shared Blocks::blockOf(uint32_t disk, uint64_t index) {
  auto found = blocks_.find(keyOf(disk, index));
  if (found == blocks_.end()) {
    uint64_t ahead = 0;
    const uint64_t count = windowAt(disk, index, ahead);
    load(disk, index, count, ahead);
    found = blocks_.find(keyOf(disk, index));
    return found->second;
  }
  const Shared block = found->second;
  ages_.splice(ages_.end(), ages_, block->age);
  if (block->aheadBlocks > 0) {
    const uint64_t from = block->aheadFrom;
    const uint64_t count = block->aheadBlocks;
    block->aheadBlocks = 0;
    load(disk, from, count, std::min(count * 2, kWindow));
  }
  return block;
}

// How many blocks are asked for from here: one, or more where the one before was asked for last.
uint64_t Blocks::windowAt(uint32_t disk, uint64_t index, uint64_t& ahead) {
  Stream* oldest = &streams_[0];
  for (Stream& stream : streams_) {
    if (stream.used < oldest->used) oldest = &stream;
    if (stream.next != keyOf(disk, index)) continue;
    stream.window = std::min(stream.window * 2, kWindow);
    stream.next = keyOf(disk, index + stream.window);
    stream.used = ++clock_;
    ahead = stream.window;
    return stream.window;
  }
  oldest->next = keyOf(disk, index + 1);
  oldest->window = 1;
  oldest->used = ++clock_;
  return 1;
}

void Blocks::load(uint32_t disk, uint64_t first, uint64_t count, uint64_t ahead) {
  const uint64_t size = disks_[disk].size;
  Request request;
  request.length = 0;
  request.first = keyOf(disk, first);
  for (uint64_t index = first; index < first + count && index * kBlock < size; index++) {
    if (blocks_.count(keyOf(disk, index))) break;
    auto block = std::make_shared<Block>();
    block->bytes.resize(std::min<uint64_t>(kBlock, size - index * kBlock));
    block->age = ages_.insert(ages_.end(), keyOf(disk, index));
    blocks_.emplace(keyOf(disk, index), block);
    request.length += block->bytes.size();
    request.blocks.push_back(block);
  }
  if (request.blocks.empty()) return;
  // Whoever reads the second half has the next window on its way.
  if (ahead > 0 && request.blocks.size() == count) {
    Block& half = *request.blocks[count / 2];
    half.aheadFrom = first + count;
    half.aheadBlocks = ahead;
  }
  makeRoom();
  ask(disk, first * kBlock, std::move(request));
}

void Blocks::makeRoom() {
  for (auto age = ages_.begin(); blocks_.size() > kCached && age != ages_.end();) {
    const auto found = blocks_.find(*age);
    if (found->second->isLoading) {
      ++age;
      continue;
    }
    blocks_.erase(found);
    age = ages_.erase(age);
  }
}

void Blocks::ask(uint32_t disk, uint64_t offset, Request request) {
  const RequestHeader header{nextTag_++, disk, offset, static_cast<uint32_t>(request.length)};
  requests_.emplace(header.tag, std::move(request));
  writeFully(fd_, &header, sizeof header);
}

int Slice::read(uint64_t offset, void* target, size_t length) const {
  return read({{offset, length, static_cast<uint8_t*>(target)}});
}

int Slice::read(std::vector<Piece> pieces) const {
  for (Piece& piece : pieces) {
    if (piece.offset > size_ || piece.length > size_ - piece.offset) return EINVAL;
    piece.offset += offset_;
  }
  return blocks_.read(disk_, pieces);
}
