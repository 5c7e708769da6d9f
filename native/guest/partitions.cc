#include "partitions.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <set>

#include "filesystem.h"
#include "numbers.h"

namespace {

const uint64_t kSector = 512;
// As many as Linux shows.
const size_t kPartitionsMax = 256;
const uint32_t kEntriesBytesMax = 1024 * 1024;

uint32_t crc32(const uint8_t* bytes, size_t length) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> made{};
    for (uint32_t i = 0; i < 256; i++) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320u ^ (value >> 1) : value >> 1;
      made[i] = value;
    }
    return made;
  }();
  uint32_t crc = ~0u;
  for (size_t i = 0; i < length; i++) crc = table[(crc ^ bytes[i]) & 0xff] ^ (crc >> 8);
  return ~crc;
}

void add(Partitions& found, uint64_t diskSize, uint32_t number, uint64_t offset, uint64_t size, uint8_t type) {
  if (found.all.size() >= kPartitionsMax || size == 0 || offset == 0 || offset >= diskSize) return;
  found.all.push_back({number, offset, std::min(size, diskSize - offset), type, size > diskSize - offset});
}

// The header at one place of the disk, if it is whole, with its entries.
std::optional<Partitions> readGpt(const Slice& disk, uint64_t sector, uint64_t headerAt) {
  if (headerAt > disk.size() || sector > disk.size() - headerAt) return {};
  std::vector<uint8_t> header(sector);
  checkRead(disk.read(headerAt, header.data(), sector));
  if (memcmp(header.data(), "EFI PART", 8) != 0) return {};
  const uint32_t headerSize = u32At(&header[12]);
  const uint32_t crc = u32At(&header[16]);
  if (headerSize < 92 || headerSize > sector || u64At(&header[24]) != headerAt / sector) return {};
  memset(&header[16], 0, 4);
  if (crc32(header.data(), headerSize) != crc) return {};
  const uint64_t entriesAt = u64At(&header[72]);
  const uint32_t count = u32At(&header[80]);
  const uint32_t entrySize = u32At(&header[84]);
  if (entrySize < 128 || entrySize > 4096 || count == 0 || count > kEntriesBytesMax / entrySize) return {};
  const size_t length = static_cast<size_t>(count) * entrySize;
  if (entriesAt >= disk.size() / sector || length > disk.size() - entriesAt * sector) return {};
  std::vector<uint8_t> entries(length);
  checkRead(disk.read(entriesAt * sector, entries.data(), length));
  if (crc32(entries.data(), length) != u32At(&header[88])) return {};
  Partitions found;
  found.table = Table::gpt;
  static const uint8_t unused[16] = {};
  // AF9B60A0-1431-4F62-BC68-3311714A69AD: what a dynamic disk of Windows has in the place of partitions.
  static const uint8_t dynamic[16] = {0xa0, 0x60, 0x9b, 0xaf, 0x31, 0x14, 0x62, 0x4f, 0xbc, 0x68, 0x33, 0x11, 0x71, 0x4a, 0x69, 0xad};
  for (uint32_t i = 0; i < count; i++) {
    const uint8_t* entry = &entries[static_cast<size_t>(i) * entrySize];
    const uint64_t first = u64At(entry + 32);
    const uint64_t last = u64At(entry + 40);
    if (memcmp(entry, unused, 16) == 0 || last < first || last >= UINT64_MAX / sector) continue;
    const uint8_t type = memcmp(entry, dynamic, 16) == 0 ? kDynamic : 0;
    add(found, disk.size(), i + 1, first * sector, (last - first + 1) * sector, type);
  }
  return found;
}

std::optional<Partitions> readAnyGpt(const Slice& disk) {
  for (const uint64_t sector : {kSector, uint64_t{4096}}) {
    if (disk.size() < 3 * sector) continue;
    if (auto found = readGpt(disk, sector, sector)) return found;
    // The copy at the end, where the first one was overwritten.
    if (auto found = readGpt(disk, sector, (disk.size() / sector - 1) * sector)) return found;
  }
  return {};
}

struct Entry {
  uint8_t status, type;
  uint64_t first, count;
};

std::array<Entry, 4> entriesOf(const uint8_t* sector) {
  std::array<Entry, 4> entries;
  for (size_t i = 0; i < 4; i++) {
    const uint8_t* at = sector + 446 + 16 * i;
    entries[i] = {at[0], at[4], u32At(at + 8), u32At(at + 12)};
  }
  return entries;
}

bool isExtended(uint8_t type) { return type == 0x05 || type == 0x0f || type == 0x85; }

// The boot sector of a filesystem has the same signature, and code where the entries would be.
bool isTable(const uint8_t* sector, uint64_t sectors) {
  if (sector[510] != 0x55 || sector[511] != 0xaa) return false;
  size_t used = 0;
  for (const Entry& entry : entriesOf(sector)) {
    if (entry.status != 0 && entry.status != 0x80) return false;
    if (entry.type == 0 || entry.count == 0) continue;
    if (entry.first == 0 || entry.first >= sectors) return false;
    used++;
  }
  return used > 0;
}

// Each extended boot record has one partition and the place of the next record.
void addLogical(const Slice& disk, uint64_t extended, Partitions& found) {
  std::set<uint64_t> seen;
  uint64_t at = extended;
  for (uint32_t number = 5; seen.insert(at).second && seen.size() <= kPartitionsMax;) {
    uint8_t sector[kSector];
    if (at >= disk.size() / kSector) return;
    checkRead(disk.read(at * kSector, sector, sizeof sector));
    if (sector[510] != 0x55 || sector[511] != 0xaa) return;
    uint64_t next = 0;
    for (const Entry& entry : entriesOf(sector)) {
      if (entry.type == 0 || entry.count == 0) continue;
      if (isExtended(entry.type))
        next = next ? next : extended + entry.first;
      else
        add(found, disk.size(), number++, (at + entry.first) * kSector, entry.count * kSector, entry.type);
    }
    if (next == 0) return;
    at = next;
  }
}

}  // namespace

Partitions readPartitions(const Slice& disk) {
  Partitions found;
  if (disk.size() < kSector) return found;
  uint8_t sector[kSector];
  checkRead(disk.read(0, sector, sizeof sector));
  const bool isMbr = isTable(sector, disk.size() / kSector);
  const auto entries = entriesOf(sector);
  const bool isProtective =
      isMbr && std::any_of(entries.begin(), entries.end(), [](const Entry& entry) { return entry.type == 0xee; });
  // A stale GPT behind a real MBR does not count; a GPT whose protecting MBR was wiped does.
  if (!isMbr || isProtective)
    if (auto gpt = readAnyGpt(disk)) return *gpt;
  if (!isMbr) return found;
  found.table = Table::mbr;
  for (uint32_t i = 0; i < 4; i++) {
    const Entry& entry = entries[i];
    if (entry.type == 0 || entry.count == 0 || isExtended(entry.type)) continue;
    add(found, disk.size(), i + 1, entry.first * kSector, entry.count * kSector, entry.type);
  }
  for (const Entry& entry : entries)
    if (isExtended(entry.type) && entry.count > 0) addLogical(disk, entry.first, found);
  return found;
}
