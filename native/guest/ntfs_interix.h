// Special files as Interix kept them, and as ntfs-3g does: files of the system whose contents say what they are.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "wire.h"

// A symbolic link with its longest target.
const size_t kInterixMax = 8 + 2 * 4096;

struct Interix {
  guest::Kind kind = guest::Kind::file;
  std::string target;
  uint32_t major = 0, minor = 0;
};

Interix parseInterix(const std::vector<uint8_t>& bytes);
