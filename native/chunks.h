// What the calls over chunks and records share.
#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "arguments.h"

constexpr size_t kChunkMin = 4 * 1024;
constexpr size_t kChunkMax = 4 * 1024 * 1024;

inline bool isChunkSize(uint64_t size) { return size >= kChunkMin && size <= kChunkMax && (size & (size - 1)) == 0; }

inline bool isZero(const uint8_t* data, size_t length) { return data[0] == 0 && memcmp(data, data + 1, length - 1) == 0; }

inline std::vector<uint8_t> copyOf(Bytes bytes) { return {bytes.data, bytes.data + bytes.length}; }

inline std::vector<uint32_t> wordsOf(Bytes bytes) {
  std::vector<uint32_t> words(bytes.length / 4);
  if (!words.empty()) memcpy(words.data(), bytes.data, bytes.length);
  return words;
}

/** Hands items to parts one by one, so that a part with easy ones takes more. */
using Counter = std::shared_ptr<std::atomic<size_t>>;
inline Counter counter() { return std::make_shared<std::atomic<size_t>>(0); }
