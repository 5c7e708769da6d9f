#include <cerrno>

#include "fat.h"
#include "fat_times.h"
#include "fat_tree.h"
#include "numbers.h"

namespace {

const uint8_t kFile = 0x85, kLabel = 0x83, kStream = 0xc0, kName = 0xc1;
const uint8_t kReadOnly = 0x01, kDirectory = 0x10, kNoTable = 0x02;
const uint64_t kDirectoryBytesMax = 256 * 1024 * 1024;

// With its distance from UTC in quarters of an hour, if whoever wrote it knew that.
int64_t timeOf(const uint8_t* stamp, uint8_t hundredths, uint8_t zone) {
  const int64_t local = dosTime(u16At(stamp + 2), u16At(stamp), hundredths > 199 ? 0 : hundredths);
  if (!(zone & 0x80)) return local;
  const int64_t quarters = (zone & 0x40) ? (zone & 0x7f) - 128 : zone & 0x7f;
  return local - quarters * 15 * 60 * 1'000'000'000;
}

FatTable::Layout layoutOf(const uint8_t* boot, uint64_t size) {
  const int sectorShift = boot[108], clusterShift = boot[109];
  if (sectorShift < 9 || sectorShift > 12 || clusterShift > 25 - sectorShift) throw Trouble(EIO, "its boot sector makes no sense");
  FatTable::Layout layout;
  layout.width = 32;
  layout.tableAt = uint64_t{u32At(boot + 80)} << sectorShift;
  layout.heapAt = uint64_t{u32At(boot + 88)} << sectorShift;
  layout.clusterBytes = 1u << (sectorShift + clusterShift);
  layout.clusters = u32At(boot + 92);
  if (layout.heapAt >= size || layout.clusters > 0xfffffff5) throw Trouble(EIO, "its boot sector makes no sense");
  return layout;
}

class Exfat final : public FatTree {
 public:
  Exfat(const Slice& slice, const uint8_t* boot)
      : FatTree(slice, layoutOf(boot, slice.size())), rootCluster_(u32At(boot + 96)), percentUsed_(boot[112]) {
    label();
  }

  std::shared_ptr<Directory> list(uint64_t inode) override {
    auto directory = std::make_shared<Directory>();
    // One file is an entry, its stream, and its name in pieces of fifteen.
    uint64_t fileAt = 0;
    size_t left = 0, length = 0;
    std::vector<uint8_t> units;
    forEachEntry(directoryOf(inode), kDirectoryBytesMax, [&](const uint8_t* entry, uint64_t at) {
      if (entry[0] == 0) return false;
      if (entry[0] == kFile) {
        fileAt = at;
        left = entry[1];
        length = 0;
        units.clear();
      } else if (left > 0 && entry[0] == kStream) {
        length = entry[3];
        left--;
      } else if (left > 0 && entry[0] == kName) {
        units.insert(units.end(), entry + 2, entry + 32);
        left--;
      } else if (!(entry[0] & 0x80) || !(entry[0] & 0x40)) {
        left = 0;
      } else if (left > 0) {
        left--;
      }
      if (fileAt != 0 && length > 0 && units.size() >= 2 * length) {
        directory->add(utf8Of(units.data(), length), inodeOf(fileAt));
        fileAt = 0;
      }
      return true;
    });
    return directory;
  }

  std::string label() override {
    std::string found;
    forEachEntry(directoryOf(kFatRoot), kDirectoryBytesMax, [&](const uint8_t* entry, uint64_t) {
      if (entry[0] == kLabel) found = utf8Of(entry + 2, std::min<size_t>(entry[1], 11));
      return entry[0] != 0 && entry[0] != kLabel;
    });
    return found;
  }

  guest::Statfs statfs() override {
    const auto& layout = table_.layout();
    const uint64_t used = percentUsed_ > 100 ? layout.clusters : uint64_t{layout.clusters} * percentUsed_ / 100;
    return {layout.clusterBytes, layout.clusters, layout.clusters - used, 0};
  }

 protected:
  FatFile fileAt(uint64_t at) override {
    const auto entry = entryAt(at);
    const auto stream = entryAt(placeAfter(at));
    if (entry[0] != kFile || stream[0] != kStream) throw Trouble(EIO, "its directory entry is damaged");
    FatFile file;
    file.isDirectory = entry[4] & kDirectory;
    file.isReadOnly = entry[4] & kReadOnly;
    file.first = u32At(&stream[20]);
    file.size = u64At(&stream[24]);
    file.valid = u64At(&stream[8]);
    file.isContiguous = stream[1] & kNoTable;
    file.born = timeOf(&entry[8], entry[20], entry[22]);
    file.modified = timeOf(&entry[12], entry[21], entry[23]);
    file.accessed = timeOf(&entry[16], 0, entry[24]);
    return file;
  }

 private:
  // The entries of one file may go on in the directory's next cluster.
  uint64_t placeAfter(uint64_t at) {
    const auto& layout = table_.layout();
    if (at < layout.heapAt) throw Trouble(EINVAL, "a node that was never given out");
    const uint64_t next = at + 32;
    if ((next - layout.heapAt) % layout.clusterBytes != 0) return next;
    const uint32_t cluster = static_cast<uint32_t>((at - layout.heapAt) / layout.clusterBytes) + 2;
    if (!table_.isCluster(cluster)) throw Trouble(EINVAL, "a node that was never given out");
    // A directory in one piece has nothing in the table.
    if (table_.isFree(cluster)) return next;
    const uint32_t after = table_.after(cluster);
    if (after == 0) throw Trouble(EIO, "its directory entry is cut off");
    return table_.placeOf(after);
  }

  FatFile directoryOf(uint64_t inode) {
    if (inode == kFatRoot) return {true, false, rootCluster_, 0, 0, false, 0, 0, 0};
    const FatFile file = fileOf(inode);
    if (!file.isDirectory) throw Trouble(ENOTDIR, "not a directory");
    return file;
  }

  const uint32_t rootCluster_;
  const uint8_t percentUsed_;
};

}  // namespace

std::unique_ptr<Filesystem> openExfat(const Slice& slice) {
  uint8_t boot[512];
  checkRead(slice.read(0, boot, sizeof boot));
  return std::make_unique<Exfat>(slice, boot);
}
