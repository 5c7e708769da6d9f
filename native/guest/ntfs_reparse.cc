#include "ntfs_reparse.h"

#include <algorithm>

#include "numbers.h"

namespace {

const uint32_t kJunction = 0xa0000003, kSymlink = 0xa000000c, kLinuxSymlink = 0xa000001d;
const uint32_t kDeduplicated = 0x80000013, kCompact = 0x80000017;

// The name for people if there is one: the other begins with \??\ of the kernel.
std::string targetOf(const std::vector<uint8_t>& bytes, size_t names) {
  const auto textAt = [&](size_t field) -> std::string {
    const size_t at = names + u16At(&bytes[field]), length = u16At(&bytes[field + 2]);
    return at + length > bytes.size() ? "" : utf8Of(&bytes[at], length / 2);
  };
  std::string target = textAt(12);
  if (target.empty()) target = textAt(8);
  if (target.rfind("\\??\\", 0) == 0) target = target.substr(4);
  std::replace(target.begin(), target.end(), '\\', '/');
  return target;
}

}  // namespace

Reparse parseReparse(const std::vector<uint8_t>& bytes) {
  Reparse found;
  if (bytes.size() < 8) return found;
  const uint32_t tag = u32At(&bytes[0]);
  if (tag == kLinuxSymlink && bytes.size() > 12) {
    found.target.assign(bytes.begin() + 12, bytes.end());
  } else if (tag == kSymlink && bytes.size() >= 20) {
    found.target = targetOf(bytes, 20);
  } else if (tag == kJunction && bytes.size() >= 16) {
    found.target = targetOf(bytes, 16);
  } else if (tag == kDeduplicated) {
    found.reason = "it was deduplicated by Windows";
  } else if (tag == kCompact) {
    found.reason = "it was compressed by Windows as part of the system (CompactOS)";
  }
  found.kind = !found.target.empty() ? Reparse::Kind::link : !found.reason.empty() ? Reparse::Kind::elsewhere : Reparse::Kind::none;
  return found;
}
