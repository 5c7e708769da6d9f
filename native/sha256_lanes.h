// SHA-256 (FIPS 180-4) and HMAC (FIPS 198-1) of many messages of one length at once, one in each 32-bit lane of a vector.
// OpenSSL hashes one message after the other; without SHA extensions this is four to ten times as fast.
#pragma once
#include <cstddef>
#include <cstdint>

constexpr size_t kDigest = 32;
constexpr size_t kBlock = 64;
constexpr size_t kLanesMax = 16;

/** 16 (AVX-512), 8 (AVX2), or 0: this processor's SHA-256 of single messages is the faster one, or it has no vectors. */
size_t sha256Lanes();

/** For tests, which prove every width: at most so many lanes from now on. Gives what is in use then. */
size_t limitSha256Lanes(size_t most);

/** Below this many messages one after the other is faster, because a group costs the same however many lanes are used. */
size_t sha256LanesWorthwhile();

/** A key of HMAC, expanded for all lanes. */
class LaneHmac {
 public:
  /** `lanes`: of sha256Lanes(), not 0. `key`: 32 bytes. */
  LaneHmac(const uint8_t* key, size_t lanes);
  /** `count` messages, at most `lanes`, of `length` bytes, a multiple of 64. */
  void run(const uint8_t* const* messages, size_t count, size_t length, uint8_t* const* digests) const;

 private:
  size_t lanes_;
  alignas(64) uint32_t inner_[8 * kLanesMax];
  alignas(64) uint32_t outer_[8 * kLanesMax];
};

/** The same without a key. */
void sha256InLanes(size_t lanes, const uint8_t* const* messages, size_t count, size_t length, uint8_t* const* digests);
