#include "ntfs_log.h"

#include <algorithm>
#include <cstring>

#include "ntfs_index.h"
#include "numbers.h"

namespace {

const uint16_t kNobody = 0xffff;
const uint16_t kCleanFlag = 2;

struct Restart {
  uint64_t sequence = 0;
  bool isWhole = false;
  bool isClean = false;
};

Restart restartAt(uint8_t* page, size_t length) {
  Restart found;
  if (memcmp(page, "RSTR", 4) != 0 && memcmp(page, "CHKD", 4) != 0) return found;
  const size_t area = u16At(page + 24);
  if (area + 16 > length || !undoFixups(page, length)) return found;
  found.isWhole = true;
  found.sequence = u64At(page + area);
  found.isClean = u16At(page + area + 12) == kNobody || (u16At(page + area + 14) & kCleanFlag) != 0;
  return found;
}

}  // namespace

bool isLogClean(std::vector<uint8_t> log) {
  // As it is made, and as Linux leaves it.
  if (std::all_of(log.begin(), log.end(), [](uint8_t byte) { return byte == 0xff; })) return true;
  const size_t page = log.size() >= 20 ? u32At(&log[16]) : 0;
  if (page < 512 || page % 512 != 0 || log.size() < 2 * page) return false;
  const Restart first = restartAt(&log[0], page);
  const Restart second = restartAt(&log[page], page);
  if (!first.isWhole && !second.isWhole) return false;
  return second.isWhole && (!first.isWhole || second.sequence > first.sequence) ? second.isClean : first.isClean;
}
