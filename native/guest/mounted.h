// A mounted filesystem of the guest, by nodes: file handles where the filesystem has them, else names below directories.
#pragma once
#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "descriptor.h"
#include "server.h"

namespace guest {

/** Directories, and names too long for a node, of filesystems without handles. They have numbers from 1 on, and are never forgotten; 0 is the root. */
class Paths {
 public:
  /** 0: there are too many. */
  uint32_t number(uint32_t parent, const std::string& name);
  /** From the root down. False: nobody gave out this number. */
  bool names(uint32_t number, std::vector<std::string>& names);

 private:
  struct Place {
    uint32_t parent;
    std::string name;
  };
  std::mutex mutex_;
  std::vector<Place> places_;
  std::unordered_map<std::string, uint32_t> numbers_;
};

/** Nothing here follows a symlink, leaves the mount, changes a time or opens anything but files and directories. Calls may overlap. */
class Mounted {
 public:
  /** `id` is the first byte of each node, so that it says whose it is. */
  Mounted(uint8_t id, bool mayUseHandles) : id_(id), handles_(mayUseHandles) {}
  Failure open(const std::string& path);

  Failure root(Found& found);
  Failure lookup(Bytes directory, Bytes name, Found& found);
  Failure list(Bytes directory, uint64_t position, Listing& listing);
  Failure readLink(Bytes node, std::string& target);
  Failure xattrs(Bytes node, uint32_t first, Xattrs& xattrs);
  Failure read(Bytes node, uint64_t offset, uint8_t* target, size_t& length);
  Failure extents(Bytes node, uint64_t offset, uint64_t length, Extents& extents);
  Failure statfs(Statfs& statfs);

 private:
  /** errno, or 0. */
  int openNode(Bytes node, int flags, Descriptor& opened);
  int openNames(const std::vector<std::string>& names, int flags, Descriptor& opened);
  Failure openFile(Bytes node, Descriptor& opened);
  /** What `name` in `directory` is, or an open file itself where it is empty. `parent`: the directory's node, or nothing of the root. */
  int find(int directory, const char* name, Bytes parent, Found& found);
  bool handleNode(int directory, const char* name, std::string& node, uint64_t& tree);
  bool pathNode(Bytes parent, const char* name, bool isDirectory, std::string& node);

  const uint8_t id_;
  Descriptor root_;
  bool handles_;
  uint64_t device_ = 0;
  uint64_t mount_ = 0;
  Paths paths_;
};

}  // namespace guest
