#include <algorithm>

#include "mounted.h"

namespace guest {

namespace {

/** Some 100 MB where names are long. FAT and exFAT, which need this, rarely have more than some thousand directories. */
constexpr size_t kPlacesMax = 1 << 20;

std::string keyOf(uint32_t parent, const std::string& name) {
  return std::string(reinterpret_cast<const char*>(&parent), sizeof parent) + name;
}

}  // namespace

uint32_t Paths::number(uint32_t parent, const std::string& name) {
  std::lock_guard<std::mutex> lock(mutex_);
  const std::string key = keyOf(parent, name);
  const auto known = numbers_.find(key);
  if (known != numbers_.end()) return known->second;
  if (places_.size() >= kPlacesMax || parent > places_.size()) return 0;
  places_.push_back({parent, name});
  return numbers_[key] = static_cast<uint32_t>(places_.size());
}

bool Paths::names(uint32_t number, std::vector<std::string>& names) {
  std::lock_guard<std::mutex> lock(mutex_);
  names.clear();
  // Each place is younger than its parent, so this ends.
  for (; number != 0; number = places_[number - 1].parent) {
    if (number > places_.size()) return false;
    names.push_back(places_[number - 1].name);
  }
  std::reverse(names.begin(), names.end());
  return true;
}

}  // namespace guest
