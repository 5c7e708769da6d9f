// The names of a directory of NTFS, out of the two attributes in which it keeps them.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

// Undoes what NTFS does to records so that a torn write shows: false where it was one.
bool undoFixups(uint8_t* record, size_t length);

struct NtfsName {
  uint64_t record;
  // UTF-16.
  const uint8_t* units;
  size_t count;
};
using TakeName = std::function<void(const NtfsName&)>;

// Names of DOS are left out: those files have another one. False: it is damaged, and some names may be missing.
bool readIndexRoot(const std::vector<uint8_t>& root, uint32_t& blockBytes, const TakeName& take);
bool readIndexBlock(uint8_t* block, size_t length, const TakeName& take);
