// A filesystem inside a slice of a disk, as one thread sees it. Everything it says is the guest's word, checked as far as it can be.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "blocks.h"
#include "server.h"
#include "wire.h"

// What a request fails with: errno and a text for people.
struct Trouble : std::runtime_error {
  Trouble(int error, const std::string& text) : std::runtime_error(text), error(error) {}
  const int error;
};

// 0 is fine. The store's trouble is not the filesystem's damage.
void checkRead(int error);

// The names of one directory, in its order.
class Directory {
 public:
  // What is no name is left out, and told with `trouble`. Throws where it has more than any directory that was not made to exhaust memory.
  void add(std::string_view name, uint64_t inode);
  size_t count() const { return entries_.size(); }
  std::string_view name(size_t index) const { return {names_.data() + entries_[index].at, entries_[index].length}; }
  uint64_t inode(size_t index) const { return entries_[index].inode; }
  size_t bytes() const { return names_.size() + entries_.size() * 40; }
  // 0: there is no such name. `makeIndex` comes first.
  uint64_t find(std::string_view name) const;
  void makeIndex();

  // What is told when all entries were: some of them, or a part of the directory, could not be read.
  int error = 0;
  std::string trouble;

 private:
  struct Entry {
    uint64_t inode;
    uint32_t at;
    uint16_t length;
  };
  size_t leftOut_ = 0;
  std::string names_;
  std::vector<Entry> entries_;
  std::unordered_map<std::string_view, uint64_t> index_;
};

// A part of a file: where it lies in the slice, or a hole.
struct Run {
  uint64_t length;
  bool isHole;
  uint64_t at;
};

using NamedValue = std::pair<std::string, std::string>;

class Filesystem {
 public:
  virtual ~Filesystem() = default;
  virtual uint64_t root() = 0;
  virtual guest::Attributes attributes(uint64_t inode) = 0;
  virtual std::shared_ptr<Directory> list(uint64_t inode) = 0;
  virtual std::string readLink(uint64_t inode) = 0;
  virtual std::vector<NamedValue> xattrs(uint64_t inode) = 0;
  // Where a file's bytes lie: the range, or its beginning where that takes many. False: not as they are; `read` gives them.
  virtual bool runs(uint64_t inode, uint64_t offset, uint64_t length, std::vector<Run>& runs) = 0;
  virtual void read(uint64_t inode, uint64_t offset, uint8_t* target, size_t length) = 0;
  virtual guest::Statfs statfs() = 0;
  // Where the filesystem itself keeps it.
  virtual std::string label() { return {}; }
  // Why what is on the disk is not yet what the guest wrote; empty: it is.
  virtual std::string unclean() { return {}; }
};
