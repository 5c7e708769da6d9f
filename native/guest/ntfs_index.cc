#include "ntfs_index.h"

#include <cstring>

#include "numbers.h"

namespace {

const uint32_t kLast = 2;
const uint8_t kDosName = 2;
const size_t kFileName = 66;

// From the header of a node on.
bool readEntries(const uint8_t* node, size_t length, const TakeName& take) {
  if (length < 16) return false;
  const size_t end = u32At(node + 4);
  if (end > length) return false;
  for (size_t at = u32At(node); at + 16 <= end;) {
    const uint8_t* entry = node + at;
    const size_t entryLength = u16At(entry + 8), contentLength = u16At(entry + 10);
    if (u32At(entry + 12) & kLast) return true;
    if (entryLength < 16 || entryLength > end - at || contentLength < kFileName || contentLength > entryLength - 16) return false;
    const uint8_t* content = entry + 16;
    const size_t count = content[64];
    if (kFileName + 2 * count > contentLength) return false;
    if (content[65] != kDosName) take({u64At(entry) & 0xffffffffffff, content + kFileName, count});
    at += entryLength;
  }
  return false;
}

}  // namespace

bool undoFixups(uint8_t* record, size_t length) {
  const size_t at = u16At(record + 4), count = u16At(record + 6);
  if (count == 0 || (count - 1) * 512 != length || at + 2 * count > length || at % 2 != 0) return false;
  for (size_t i = 1; i < count; i++) {
    uint8_t* last = record + i * 512 - 2;
    if (memcmp(last, record + at, 2) != 0) return false;
    memcpy(last, record + at + 2 * i, 2);
  }
  return true;
}

bool readIndexRoot(const std::vector<uint8_t>& root, uint32_t& blockBytes, const TakeName& take) {
  if (root.size() < 32) return false;
  blockBytes = u32At(&root[8]);
  return readEntries(&root[16], root.size() - 16, take);
}

bool readIndexBlock(uint8_t* block, size_t length, const TakeName& take) {
  if (length < 64 || memcmp(block, "INDX", 4) != 0 || !undoFixups(block, length)) return false;
  return readEntries(block + 24, length - 24, take);
}
