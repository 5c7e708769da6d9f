#include "ntfs_interix.h"

#include "numbers.h"

namespace {

using guest::Kind;

Interix device(Kind kind, const uint8_t* numbers) {
  return {kind, "", static_cast<uint32_t>(u64At(numbers)), static_cast<uint32_t>(u64At(numbers + 8))};
}

}  // namespace

Interix parseInterix(const std::vector<uint8_t>& bytes) {
  // Interix' pipes and sockets are empty or a byte long. Windows has files of its own like that, which would be taken for them.
  if (bytes.size() > 8 && memcmp(bytes.data(), "IntxLNK\1", 8) == 0)
    return {Kind::symlink, utf8Of(&bytes[8], (bytes.size() - 8) / 2), 0, 0};
  if (bytes.size() == 24 && memcmp(bytes.data(), "IntxCHR", 8) == 0) return device(Kind::characterDevice, &bytes[8]);
  if (bytes.size() == 24 && memcmp(bytes.data(), "IntxBLK", 8) == 0) return device(Kind::blockDevice, &bytes[8]);
  return {};
}
