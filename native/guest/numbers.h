// Numbers as disks have them.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

template <typename T>
T numberAt(const void* at) {
  T value;
  memcpy(&value, at, sizeof value);
  return value;
}
inline uint16_t u16At(const void* at) { return numberAt<uint16_t>(at); }
inline uint32_t u32At(const void* at) { return numberAt<uint32_t>(at); }
inline uint64_t u64At(const void* at) { return numberAt<uint64_t>(at); }

// UTF-16 as Windows writes it to UTF-8. A half of a pair that stands alone keeps its three bytes, so that no two names become one.
inline std::string utf8Of(const uint8_t* units, size_t count) {
  std::string text;
  for (size_t i = 0; i < count; i++) {
    uint32_t code = u16At(units + 2 * i);
    const uint32_t next = i + 1 < count ? u16At(units + 2 * i + 2) : 0;
    if (code >= 0xd800 && code < 0xdc00 && next >= 0xdc00 && next < 0xe000) {
      code = 0x10000 + ((code - 0xd800) << 10) + (next - 0xdc00);
      i++;
    }
    if (code < 0x80) {
      text += static_cast<char>(code);
    } else if (code < 0x800) {
      text += static_cast<char>(0xc0 | code >> 6);
      text += static_cast<char>(0x80 | (code & 0x3f));
    } else {
      if (code < 0x10000) {
        text += static_cast<char>(0xe0 | code >> 12);
      } else {
        text += static_cast<char>(0xf0 | code >> 18);
        text += static_cast<char>(0x80 | (code >> 12 & 0x3f));
      }
      text += static_cast<char>(0x80 | (code >> 6 & 0x3f));
      text += static_cast<char>(0x80 | (code & 0x3f));
    }
  }
  return text;
}
