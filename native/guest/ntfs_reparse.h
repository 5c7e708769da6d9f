// What NTFS calls reparse points: symbolic links, junctions, and files whose contents are somewhere else.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

struct Reparse {
  enum class Kind { none, link, elsewhere } kind = Kind::none;
  // Of a link, with slashes.
  std::string target;
  // Why the contents cannot be read here.
  std::string reason;
};

Reparse parseReparse(const std::vector<uint8_t>& bytes);
