#include "filesystem.h"

#include <cerrno>
#include <cstring>

namespace {

// A directory of two million names takes some hundred MiB; the cage has little more.
const size_t kEntriesMax = 2'000'000;
const size_t kNamesMax = 128 * 1024 * 1024;

bool isName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.size() <= guest::kNameMax && name.find('/') == name.npos &&
         name.find('\0') == name.npos;
}

}  // namespace

void checkRead(int error) {
  if (error == 0) return;
  if (error == EINVAL) throw Trouble(EIO, "it points past the end of its volume");
  throw Trouble(EIO, std::string("the disk could not be read: ") + strerror(error));
}

void Directory::add(std::string_view name, uint64_t inode) {
  if (entries_.size() >= kEntriesMax || names_.size() >= kNamesMax) throw Trouble(EFBIG, "a directory with too many entries");
  if (!isName(name)) {
    error = EIO;
    trouble = std::to_string(++leftOut_) + " names that no file can have are left out";
    return;
  }
  entries_.push_back({inode, static_cast<uint32_t>(names_.size()), static_cast<uint16_t>(name.size())});
  names_.append(name);
}

void Directory::makeIndex() {
  index_.reserve(entries_.size());
  // Of two entries with one name the first is found.
  for (size_t i = 0; i < entries_.size(); i++) index_.emplace(name(i), entries_[i].inode);
}

uint64_t Directory::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? 0 : found->second;
}
