// The directories that were read lately, for who lists them page by page and looks up names in them; and where each was found.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "filesystem.h"

class Directories {
 public:
  using Shared = std::shared_ptr<const Directory>;

  Shared get(uint32_t volume, uint64_t inode, const std::function<std::shared_ptr<Directory>()>& read);

  // False: it was seen in another directory before. A tree has no such thing; whoever walks it would never come to an end.
  bool isIn(uint32_t volume, uint64_t parent, uint64_t directory);

 private:
  static constexpr size_t kBytes = 64 * 1024 * 1024;
  static constexpr size_t kParents = 1'000'000;

  struct Kept {
    uint64_t key;
    Shared directory;
  };

  static uint64_t keyOf(uint32_t volume, uint64_t inode) { return static_cast<uint64_t>(volume) << 52 | inode; }

  std::mutex lock_;
  // The most recently used first.
  std::list<Kept> kept_;
  std::unordered_map<uint64_t, std::list<Kept>::iterator> places_;
  size_t bytes_ = 0;
  std::unordered_map<uint64_t, uint64_t> parents_;
};
