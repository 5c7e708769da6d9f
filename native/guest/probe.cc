#include "probe.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "filesystem.h"
#include "numbers.h"

namespace {

// Where all but a few of the magic numbers lie.
const size_t kHead = 68 * 1024;

struct Magic {
  size_t at;
  const char* bytes;
  size_t length;
  const char* type;
  Content content;
  const char* reason;
};

#define BYTES(text) text, sizeof text - 1

// In the order in which they are looked for: what wraps a filesystem comes before what it wraps.
const Magic kMagics[] = {
    {0, BYTES("LUKS\xba\xbe"), "crypto_LUKS", Content::appliance, "LUKS"},
    {3, BYTES("-FVE-FS-"), "BitLocker", Content::appliance, "BitLocker"},
    {512, BYTES("LABELONE"), "LVM2_member", Content::appliance, "LVM"},
    {0, BYTES("LABELONE"), "LVM2_member", Content::appliance, "LVM"},
    {1024, BYTES("LABELONE"), "LVM2_member", Content::appliance, "LVM"},
    {1536, BYTES("LABELONE"), "LVM2_member", Content::appliance, "LVM"},
    {4096, BYTES("\xfc\x4e\x2b\xa9"), "linux_raid_member", Content::appliance, "Linux RAID"},
    {0, BYTES("\xfc\x4e\x2b\xa9"), "linux_raid_member", Content::appliance, "Linux RAID"},
    {0, BYTES("XFSB"), "xfs", Content::appliance, "XFS"},
    {65536 + 64, BYTES("_BHRfS_M"), "btrfs", Content::appliance, "Btrfs"},
    {32768 + 1, BYTES("CD001"), "iso9660", Content::appliance, "ISO 9660"},
    {32768 + 1, BYTES("BEA01"), "udf", Content::appliance, "UDF"},
    {1024, BYTES("\x10\x20\xf5\xf2"), "f2fs", Content::appliance, "F2FS"},
    {0, BYTES("hsqs"), "squashfs", Content::appliance, "SquashFS"},
    {1024, BYTES("\xe2\xe1\xf5\xe0"), "erofs", Content::appliance, "EROFS"},
    {4096 - 10, BYTES("SWAPSPACE2"), "swap", Content::nothing, "swap space"},
    {4096 - 10, BYTES("SWAP-SPACE"), "swap", Content::nothing, "swap space"},
    {65536 - 10, BYTES("SWAPSPACE2"), "swap", Content::nothing, "swap space"},
    {3, BYTES("ReFS\0\0\0\0"), "ReFS", Content::guestOnly, "ReFS"},
    {32, BYTES("NXSB"), "apfs", Content::guestOnly, "APFS"},
    {1024, BYTES("H+"), "hfsplus", Content::appliance, "HFS+"},
    {3, BYTES("NTFS    "), "ntfs", Content::ntfs, ""},
    {3, BYTES("EXFAT   "), "exfat", Content::exfat, ""},
    {1024 + 56, BYTES("\x53\xef"), "ext", Content::ext, ""},
};

#undef BYTES

std::string trimmed(const uint8_t* bytes, size_t length) {
  std::string text(reinterpret_cast<const char*>(bytes), length);
  text = text.substr(0, text.find('\0'));
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

std::string hex(const uint8_t* bytes, size_t length, bool isBackwards = false) {
  std::string text;
  for (size_t i = 0; i < length; i++) {
    char digits[3];
    snprintf(digits, sizeof digits, "%02x", bytes[isBackwards ? length - 1 - i : i]);
    text += digits;
  }
  return text;
}

// As blkid writes them.
std::string uuidOf(const uint8_t* bytes) {
  return hex(bytes, 4) + "-" + hex(bytes + 4, 2) + "-" + hex(bytes + 6, 2) + "-" + hex(bytes + 8, 2) + "-" + hex(bytes + 10, 6);
}

std::string upper(std::string text) {
  for (char& letter : text) letter = static_cast<char>(toupper(letter));
  return text;
}

std::string serialOf(const uint8_t* bytes) {
  const std::string text = upper(hex(bytes, 4, true));
  return text.substr(0, 4) + "-" + text.substr(4);
}

// Its magic number has two bytes: more of the superblock has to make sense.
bool isExt(const uint8_t* super) { return u32At(super + 24) <= 6 && u32At(super + 40) > 0 && u32At(super + 32) > 0; }

void describeExt(const uint8_t* super, Probed& found) {
  const uint32_t compatible = u32At(super + 92);
  const uint32_t incompatible = u32At(super + 96);
  const uint32_t readOnly = u32At(super + 100);
  const bool isFourth = (incompatible & ~0x16u) != 0 || (readOnly & ~0x7u) != 0;
  found.type = isFourth ? "ext4" : compatible & 4 ? "ext3" : "ext2";
  found.uuid = uuidOf(super + 104);
  found.label = trimmed(super + 120, 16);
  if (incompatible & 8) {
    found.content = Content::nothing;
    found.type = "jbd";
    found.reason = "the journal of another volume";
  } else if (incompatible & 4) {
    found.content = Content::appliance;
    found.reason = "its journal has to be replayed";
  }
}

// FAT has no magic number: its boot sector has to make sense in all its parts.
bool isFat(const uint8_t* boot) {
  const uint32_t bytes = u16At(boot + 11);
  const uint32_t sectors = boot[13];
  const bool isJump = boot[0] == 0xeb || boot[0] == 0xe9;
  const bool hasSize = u16At(boot + 19) != 0 || u32At(boot + 32) != 0;
  const bool hasTable = u16At(boot + 22) != 0 || u32At(boot + 36) != 0;
  return isJump && (bytes == 512 || bytes == 1024 || bytes == 2048 || bytes == 4096) && sectors != 0 &&
         (sectors & (sectors - 1)) == 0 && u16At(boot + 14) != 0 && (boot[16] == 1 || boot[16] == 2) &&
         (boot[21] == 0xf0 || boot[21] >= 0xf8) && hasSize && hasTable;
}

void describeFat(const uint8_t* boot, Probed& found) {
  found.content = Content::fat;
  found.type = "vfat";
  const uint8_t* extended = boot + (u16At(boot + 22) == 0 ? 64 : 36);
  if (extended[2] != 0x29) return;
  found.uuid = serialOf(extended + 3);
  const std::string label = trimmed(extended + 7, 11);
  if (label != "NO NAME") found.label = label;
}

const uint8_t kRaid[] = {0xfc, 0x4e, 0x2b, 0xa9};

// Version 0.90, in the last 64 KiB that begin at such a border.
bool isOldRaid(const Slice& slice) {
  if (slice.size() < 128 * 1024) return false;
  uint8_t magic[4];
  checkRead(slice.read((slice.size() / 65536 - 1) * 65536, magic, sizeof magic));
  return memcmp(magic, kRaid, sizeof magic) == 0;
}

}  // namespace

// Version 1.0, 8 to 12 KiB before the end; it says where it is, so that the one of the last partition is not taken for the disk's.
bool isMirror(const Slice& slice) {
  if (slice.size() < 128 * 1024) return false;
  const uint64_t sector = (slice.size() / 512 - 16) & ~uint64_t{7};
  uint8_t super[152];
  checkRead(slice.read(sector * 512, super, sizeof super));
  return memcmp(super, kRaid, sizeof kRaid) == 0 && u32At(super + 4) == 1 && u64At(super + 144) == sector;
}

Probed probe(const Slice& slice) {
  Probed found;
  std::vector<uint8_t> head(kHead);
  checkRead(slice.read(0, head.data(), std::min<uint64_t>(kHead, slice.size())));
  if (isMirror(slice) || isOldRaid(slice)) return {Content::appliance, "linux_raid_member", "", "", "Linux RAID"};
  for (const Magic& magic : kMagics) {
    if (memcmp(&head[magic.at], magic.bytes, magic.length) != 0) continue;
    if (magic.content == Content::ext && !isExt(&head[1024])) continue;
    found.content = magic.content;
    found.type = magic.type;
    found.reason = magic.reason;
    if (magic.content == Content::ext) describeExt(&head[1024], found);
    if (magic.content == Content::ntfs) found.uuid = upper(hex(&head[72], 8, true));
    if (magic.content == Content::exfat) found.uuid = serialOf(&head[100]);
    return found;
  }
  if (isFat(head.data()))
    describeFat(head.data(), found);
  else if (std::all_of(head.begin(), head.end(), [](uint8_t byte) { return byte == 0; }))
    found.content = Content::empty;
  return found;
}
