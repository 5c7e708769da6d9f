// What FAT and exFAT have in common: directories of entries of 32 bytes, a table of clusters, and neither owners nor inodes. A file's
// inode is the place of its entry.
#pragma once

#include <array>
#include <functional>

#include "fat_table.h"

const uint64_t kFatRoot = 1;

// What an entry says of its file.
struct FatFile {
  bool isDirectory;
  bool isReadOnly;
  uint32_t first;
  uint64_t size;
  // Bytes behind it were never written, and read as zeros.
  uint64_t valid;
  // Its clusters follow each other, and the table has nothing to say.
  bool isContiguous;
  int64_t modified, accessed, born;
};

class FatTree : public Filesystem {
 public:
  FatTree(const Slice& slice, const FatTable::Layout& layout) : slice_(slice), table_(slice_, layout) {}

  uint64_t root() final { return kFatRoot; }
  guest::Attributes attributes(uint64_t inode) final;
  std::string readLink(uint64_t) final;
  std::vector<NamedValue> xattrs(uint64_t) final { return {}; }
  bool runs(uint64_t inode, uint64_t offset, uint64_t length, std::vector<Run>& runs) final;
  void read(uint64_t, uint64_t, uint8_t*, size_t) final {}

 protected:
  // Return false to end. The entry is valid for the call; `at` is its place in the slice.
  using Visit = std::function<bool(const uint8_t* entry, uint64_t at)>;

  virtual FatFile fileAt(uint64_t at) = 0;

  static uint64_t inodeOf(uint64_t at) { return at / 32 + 16; }
  FatFile fileOf(uint64_t inode);
  void forEachEntry(const FatFile& directory, uint64_t bytesMax, const Visit& visit);
  void forEachEntryIn(uint64_t at, uint64_t length, const Visit& visit);
  std::array<uint8_t, 32> entryAt(uint64_t at);

  const Slice slice_;
  FatTable table_;

 private:
  // True: there is more to see.
  bool visitRange(uint64_t at, uint64_t length, const Visit& visit);
};
