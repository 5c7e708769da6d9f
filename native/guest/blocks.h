// The disks of a point, as the process outside of the cage gives them: it is asked for bytes over a socket, and what it said is
// remembered in blocks, so that metadata over a slow store is not one round trip for each 4 KiB.
//
// All numbers are little-endian. Requests overlap and are answered in any order.
//   request   u32 tag, u32 disk, u64 offset, u32 length (at most 1 MiB, inside the disk)
//   answer    u32 tag, u32 errno (0 is success), u32 length (that of the request, or 0), bytes
#pragma once

#include <condition_variable>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

struct Disk {
  std::string name;
  uint64_t size;
};

// Bytes of a disk and where they go.
struct Piece {
  uint64_t offset;
  size_t length;
  uint8_t* target;
};

class Blocks {
 public:
  Blocks(int fd, std::vector<Disk> disks);

  const std::vector<Disk>& disks() const { return disks_; }

  // Reads the answers, in a thread of its own, until the other side hangs up: then the process ends.
  void receive();

  // All of them, or errno. Small ones come out of the cache; many that are not in it are asked for at once.
  int read(uint32_t disk, const std::vector<Piece>& pieces);

 private:
  static constexpr size_t kBlock = 64 * 1024;
  static constexpr size_t kCached = 512;
  static constexpr size_t kRequest = 1024 * 1024;
  static constexpr size_t kStreams = 16;
  static constexpr uint64_t kWindow = kRequest / kBlock;

  struct Block {
    std::vector<uint8_t> bytes;
    bool isLoading = true;
    int error = 0;
    // Whoever comes here first has the blocks behind it asked for.
    uint64_t aheadFrom = 0;
    uint64_t aheadBlocks = 0;
    std::list<uint64_t>::iterator age;
  };
  using Shared = std::shared_ptr<Block>;

  struct Direct {
    uint8_t* target;
    bool isDone = false;
    int error = 0;
  };

  struct Request {
    size_t length;
    // One of the two.
    std::shared_ptr<Direct> direct;
    uint64_t first = 0;
    std::vector<Shared> blocks;
  };

  // Somebody reads one block after the other.
  struct Stream {
    uint64_t next = ~0ull;
    uint64_t window = 1;
    uint64_t used = 0;
  };

  static uint64_t keyOf(uint32_t disk, uint64_t block) { return static_cast<uint64_t>(disk) << 48 | block; }
  Shared blockOf(uint32_t disk, uint64_t index);
  uint64_t windowAt(uint32_t disk, uint64_t index, uint64_t& ahead);
  void load(uint32_t disk, uint64_t first, uint64_t count, uint64_t ahead);
  void makeRoom();
  void ask(uint32_t disk, uint64_t offset, Request request);
  void answer(uint32_t tag, uint32_t error, uint32_t length);

  const int fd_;
  const std::vector<Disk> disks_;
  std::mutex lock_;
  std::condition_variable arrived_;
  std::unordered_map<uint64_t, Shared> blocks_;
  // The least recently used first.
  std::list<uint64_t> ages_;
  std::unordered_map<uint32_t, Request> requests_;
  Stream streams_[kStreams];
  uint64_t clock_ = 0;
  uint32_t nextTag_ = 0;
};

// A part of a disk, from its partition table.
class Slice {
 public:
  Slice(Blocks& blocks, uint32_t disk, uint64_t offset, uint64_t size) : blocks_(blocks), disk_(disk), offset_(offset), size_(size) {}

  uint64_t size() const { return size_; }
  uint32_t disk() const { return disk_; }
  // 0 or errno; EINVAL past its end.
  int read(uint64_t offset, void* target, size_t length) const;
  int read(std::vector<Piece> pieces) const;

 private:
  Blocks& blocks_;
  uint32_t disk_;
  uint64_t offset_;
  uint64_t size_;
};
