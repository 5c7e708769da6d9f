#include "directories.h"

Directories::Shared Directories::get(uint32_t volume, uint64_t inode, const std::function<std::shared_ptr<Directory>()>& read) {
  const uint64_t key = keyOf(volume, inode);
  {
    std::lock_guard<std::mutex> guard(lock_);
    const auto found = places_.find(key);
    if (found != places_.end()) {
      kept_.splice(kept_.begin(), kept_, found->second);
      return found->second->directory;
    }
  }
  const std::shared_ptr<Directory> directory = read();
  directory->makeIndex();
  std::lock_guard<std::mutex> guard(lock_);
  const auto found = places_.find(key);
  if (found != places_.end()) return found->second->directory;
  kept_.push_front({key, directory});
  places_[key] = kept_.begin();
  bytes_ += directory->bytes();
  // The newest stays, however large.
  while (bytes_ > kBytes && kept_.size() > 1) {
    bytes_ -= kept_.back().directory->bytes();
    places_.erase(kept_.back().key);
    kept_.pop_back();
  }
  return directory;
}

bool Directories::isIn(uint32_t volume, uint64_t parent, uint64_t directory) {
  std::lock_guard<std::mutex> guard(lock_);
  if (parents_.size() >= kParents) {
    const auto found = parents_.find(keyOf(volume, directory));
    return found == parents_.end() || found->second == parent;
  }
  return parents_.emplace(keyOf(volume, directory), parent).first->second == parent;
}
