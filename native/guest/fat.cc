#include "fat.h"

#include <cerrno>

#include "fat_times.h"
#include "fat_tree.h"
#include "numbers.h"

namespace {

const uint8_t kReadOnly = 0x01, kLabel = 0x08, kDirectory = 0x10, kLongName = 0x0f;
const uint64_t kDirectoryBytesMax = 65536 * 32;
const size_t kLongNameMax = 20;

// Names of eight and three are written in the code page of the machine; of western ones this one.
const char16_t kCodePage437[] =
    u"ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0";

std::string fromCodePage(const uint8_t* bytes, size_t length, bool isLower) {
  std::string text;
  while (length > 0 && bytes[length - 1] == ' ') length--;
  for (size_t i = 0; i < length; i++) {
    const uint8_t byte = bytes[i];
    if (byte < 0x80) {
      text += static_cast<char>(isLower && byte >= 'A' && byte <= 'Z' ? byte + 32 : byte);
    } else {
      const char16_t unit = kCodePage437[byte - 0x80];
      text += utf8Of(reinterpret_cast<const uint8_t*>(&unit), 1);
    }
  }
  return text;
}

// Windows NT keeps the case of a name that is all of one in two bits.
std::string shortName(const uint8_t* entry) {
  uint8_t name[11];
  memcpy(name, entry, sizeof name);
  if (name[0] == 0x05) name[0] = 0xe5;
  const std::string base = fromCodePage(name, 8, entry[12] & 0x08);
  const std::string extension = fromCodePage(name + 8, 3, entry[12] & 0x10);
  return extension.empty() ? base : base + "." + extension;
}

uint8_t checksumOf(const uint8_t* name) {
  uint8_t sum = 0;
  for (int i = 0; i < 11; i++) sum = static_cast<uint8_t>((sum << 7 | sum >> 1) + name[i]);
  return sum;
}

// Pieces of thirteen, the last one first; they belong to the entry behind them if its checksum says so.
class LongName {
 public:
  void take(const uint8_t* entry) {
    const uint8_t order = entry[0];
    const size_t number = order & 0x3f;
    if (order & 0x40) {
      clear();
      if (number == 0 || number > kLongNameMax) return;
      count_ = next_ = number;
      checksum_ = entry[13];
    }
    if (number == 0 || number != next_ || entry[13] != checksum_) return clear();
    next_--;
    uint8_t* piece = units_ + next_ * 26;
    memcpy(piece, entry + 1, 10);
    memcpy(piece + 10, entry + 14, 12);
    memcpy(piece + 22, entry + 28, 4);
  }

  std::string nameOf(const uint8_t* entry) const {
    if (count_ == 0 || next_ != 0 || checksum_ != checksumOf(entry)) return shortName(entry);
    size_t length = 0;
    while (length < count_ * 13 && u16At(units_ + 2 * length) != 0) length++;
    return length == 0 ? shortName(entry) : utf8Of(units_, length);
  }

  void clear() { count_ = next_ = 0; }

 private:
  uint8_t units_[kLongNameMax * 26];
  size_t count_ = 0, next_ = 0;
  uint8_t checksum_ = 0;
};

struct Boot {
  FatTable::Layout layout;
  // Of FAT12 and FAT16 a place of its own.
  uint64_t rootAt, rootBytes;
  uint32_t rootCluster;
};

Boot readBoot(const Slice& slice) {
  uint8_t boot[512];
  checkRead(slice.read(0, boot, sizeof boot));
  const uint64_t sector = u16At(boot + 11);
  const uint64_t perCluster = boot[13], reserved = u16At(boot + 14), tables = boot[16], rootEntries = u16At(boot + 17);
  const uint64_t sectors = u16At(boot + 19) ? u16At(boot + 19) : u32At(boot + 32);
  const uint64_t tableSectors = u16At(boot + 22) ? u16At(boot + 22) : u32At(boot + 36);
  const uint64_t rootSectors = (rootEntries * 32 + sector - 1) / sector;
  const uint64_t heap = reserved + tables * tableSectors + rootSectors;
  if (heap >= sectors) throw Trouble(EIO, "its boot sector makes no sense");
  Boot found;
  const uint64_t clusters = (sectors - heap) / perCluster;
  found.layout.width = clusters < 4085 ? 12 : clusters < 65525 ? 16 : 32;
  found.layout.tableAt = reserved * sector;
  found.layout.heapAt = heap * sector;
  found.layout.clusterBytes = static_cast<uint32_t>(perCluster * sector);
  const uint64_t inTable = tableSectors * sector * 8 / static_cast<uint64_t>(found.layout.width);
  if (inTable <= 2 || clusters > 0x0ffffff5) throw Trouble(EIO, "its boot sector makes no sense");
  found.layout.clusters = static_cast<uint32_t>(std::min(clusters, inTable - 2));
  found.rootAt = (reserved + tables * tableSectors) * sector;
  found.rootBytes = rootEntries * 32;
  found.rootCluster = u32At(boot + 44);
  return found;
}

class Fat final : public FatTree {
 public:
  Fat(const Slice& slice, const Boot& boot) : FatTree(slice, boot.layout), boot_(boot) { label(); }

  std::shared_ptr<Directory> list(uint64_t inode) override {
    auto directory = std::make_shared<Directory>();
    LongName longName;
    forEach(inode, [&](const uint8_t* entry, uint64_t at) {
      if (entry[0] == 0) return false;
      if (entry[0] == 0xe5) {
        longName.clear();
      } else if ((entry[11] & 0x3f) == kLongName) {
        longName.take(entry);
      } else {
        if (!(entry[11] & kLabel)) addName(*directory, longName.nameOf(entry), at);
        longName.clear();
      }
      return true;
    });
    return directory;
  }

  std::string label() override {
    std::string found;
    forEach(kFatRoot, [&](const uint8_t* entry, uint64_t) {
      if (entry[0] == 0) return false;
      if (entry[0] == 0xe5 || (entry[11] & 0x3f) == kLongName || !(entry[11] & kLabel)) return true;
      found = fromCodePage(entry, 11, false);
      return false;
    });
    return found;
  }

  guest::Statfs statfs() override {
    const auto& layout = table_.layout();
    // A table of 32 bits may have a gigabyte; what is free does not matter that much.
    const uint32_t free = layout.width == 32 ? 0 : table_.countFree();
    return {layout.clusterBytes, layout.clusters, free, 0};
  }

 protected:
  FatFile fileAt(uint64_t at) override {
    const auto entry = entryAt(at);
    FatFile file;
    file.isDirectory = entry[11] & kDirectory;
    file.isReadOnly = entry[11] & kReadOnly;
    file.first = u16At(&entry[26]) | (table_.layout().width == 32 ? static_cast<uint32_t>(u16At(&entry[20])) << 16 : 0);
    file.size = file.valid = file.isDirectory ? 0 : u32At(&entry[28]);
    file.isContiguous = false;
    file.modified = dosTime(u16At(&entry[24]), u16At(&entry[22]), 0);
    file.accessed = u16At(&entry[18]) ? dosTime(u16At(&entry[18]), 0, 0) : file.modified;
    file.born = u16At(&entry[16]) ? dosTime(u16At(&entry[16]), u16At(&entry[14]), entry[13]) : guest::kUnknownTime;
    return file;
  }

 private:
  void forEach(uint64_t inode, const Visit& visit) {
    if (inode == kFatRoot && table_.layout().width != 32) return forEachEntryIn(boot_.rootAt, boot_.rootBytes, visit);
    FatFile directory = inode == kFatRoot ? FatFile{true, false, boot_.rootCluster, 0, 0, false, 0, 0, 0} : fileOf(inode);
    if (!directory.isDirectory) throw Trouble(ENOTDIR, "not a directory");
    forEachEntry(directory, kDirectoryBytesMax, visit);
  }

  static void addName(Directory& directory, const std::string& name, uint64_t at) {
    if (name != "." && name != "..") directory.add(name, inodeOf(at));
  }

  const Boot boot_;
};

}  // namespace

std::unique_ptr<Filesystem> openFat(const Slice& slice) { return std::make_unique<Fat>(slice, readBoot(slice)); }
