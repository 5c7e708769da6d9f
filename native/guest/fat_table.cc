#include "fat_table.h"

#include <algorithm>
#include <cerrno>

#include "numbers.h"

namespace {

const uint64_t kPage = 4096;
const size_t kChainsKept = 8;
const size_t kRunsMax = 4096;

}  // namespace

uint32_t FatTable::entry(uint32_t cluster) {
  const uint64_t at = layout_.tableAt + (layout_.width == 12 ? cluster + cluster / 2 : uint64_t{cluster} * (layout_.width / 8));
  // One byte more than a page, for the entry of twelve bits that lies across its end.
  if (at / kPage != pageAt_) {
    pageAt_ = ~0ull;
    page_.assign(kPage + 1, 0);
    const uint64_t from = at / kPage * kPage;
    checkRead(slice_.read(from, page_.data(), std::min<uint64_t>(kPage + 1, slice_.size() - std::min(from, slice_.size()))));
    pageAt_ = at / kPage;
  }
  const uint8_t* found = &page_[at % kPage];
  if (layout_.width == 12) return cluster % 2 ? u16At(found) >> 4 : u16At(found) & 0xfff;
  return layout_.width == 16 ? u16At(found) : u32At(found);
}

uint32_t FatTable::after(uint32_t cluster) {
  const uint32_t next = entry(cluster);
  const uint32_t value = layout_.width == 32 ? next & 0x0fffffff : next;
  const uint32_t end = layout_.width == 12 ? 0xff8 : layout_.width == 16 ? 0xfff8 : 0x0ffffff8;
  if (value >= end) return 0;
  if (!isCluster(value)) throw Trouble(EIO, "its chain of clusters is broken");
  return value;
}

const Chain& FatTable::chain(uint32_t first, uint32_t least, uint32_t most) {
  for (auto kept = kept_.begin(); kept != kept_.end(); ++kept) {
    if (kept->first != first || kept->most < most) continue;
    if (kept->count < least) throw Trouble(EIO, "its chain of clusters is too short");
    kept_.splice(kept_.begin(), kept_, kept);
    return kept_.front().chain;
  }
  if (!isCluster(first)) throw Trouble(EIO, "its first cluster is not on the disk");
  Kept made{first, most, 0, {}};
  // A chain that runs in circles ends with the last cluster of the disk.
  const uint64_t bound = std::min(most, layout_.clusters);
  for (uint32_t cluster = first; cluster != 0 && made.count < bound; made.count++) {
    if (!made.chain.empty() && made.chain.back().first + made.chain.back().count == cluster)
      made.chain.back().count++;
    else
      made.chain.push_back({cluster, 1});
    if (made.count + 1 < bound) cluster = after(cluster);
  }
  if (made.count < least) throw Trouble(EIO, "its chain of clusters is too short");
  kept_.push_front(std::move(made));
  if (kept_.size() > kChainsKept) kept_.pop_back();
  return kept_.front().chain;
}

uint32_t FatTable::countFree() {
  uint32_t free = 0;
  for (uint32_t i = 0; i < layout_.clusters; i++) free += entry(i + 2) == 0;
  return free;
}

void takeRuns(const FatTable& table, const Chain& chain, uint64_t offset, uint64_t length, std::vector<Run>& runs) {
  uint64_t at = 0;
  for (const ClusterRun& run : chain) {
    const uint64_t bytes = uint64_t{run.count} * table.layout().clusterBytes;
    const uint64_t from = std::max(at, offset);
    const uint64_t to = std::min(at + bytes, offset + length);
    if (from < to) runs.push_back({to - from, false, table.placeOf(run.first) + (from - at)});
    at += bytes;
    if (at >= offset + length || runs.size() >= kRunsMax) return;
  }
}
