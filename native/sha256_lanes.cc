#include "sha256_lanes.h"

#include <atomic>
#include <cstring>

namespace {

/** Section 4.2.2: the first 32 bits of the fractional parts of the cube roots of the first 64 primes. */
constexpr uint32_t kRound[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

/** Section 5.3.3. */
constexpr uint32_t kInitial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

using Compress = void (*)(uint32_t* state, const uint8_t* const* data, size_t blocks);

void writeWord(uint8_t* at, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) *at++ = static_cast<uint8_t>(value >> shift);
}

}  // namespace

#if defined(__x86_64__)
// GCC 12's own header makes undefined vectors on purpose and then warns of them.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <cpuid.h>
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2")
namespace avx2 {
namespace {
constexpr size_t LANES = 8;
typedef uint32_t Vec __attribute__((vector_size(32)));

inline __attribute__((always_inline)) Vec loadBigEndian(const uint8_t* at) {
  const __m256i swap = _mm256_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14,
                                        13, 12);
  return (Vec)_mm256_shuffle_epi8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)), swap);
}

inline __attribute__((always_inline)) void transpose(Vec* rows) {
  __m256i pairs[8], fours[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_epi32((__m256i)rows[i], (__m256i)rows[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_epi32((__m256i)rows[i], (__m256i)rows[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    fours[i] = _mm256_unpacklo_epi64(pairs[i], pairs[i + 2]);
    fours[i + 1] = _mm256_unpackhi_epi64(pairs[i], pairs[i + 2]);
    fours[i + 2] = _mm256_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
    fours[i + 3] = _mm256_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    rows[i] = (Vec)_mm256_permute2x128_si256(fours[i], fours[i + 4], 0x20);
    rows[i + 4] = (Vec)_mm256_permute2x128_si256(fours[i], fours[i + 4], 0x31);
  }
}

#define ROTATE(x, n) (((x) >> (n)) | ((x) << (32 - (n))))
#define XOR3(x, y, z) ((x) ^ (y) ^ (z))
#define CHOOSE(x, y, z) ((z) ^ ((x) & ((y) ^ (z))))
#define MAJORITY(x, y, z) (((x) & (y)) | ((z) & ((x) | (y))))
#include "sha256_lanes_body.h"
#undef ROTATE
#undef XOR3
#undef CHOOSE
#undef MAJORITY
}  // namespace
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw")
namespace avx512 {
namespace {
constexpr size_t LANES = 16;
typedef uint32_t Vec __attribute__((vector_size(64)));

inline __attribute__((always_inline)) Vec loadBigEndian(const uint8_t* at) {
  const __m512i swap = _mm512_broadcast_i32x4(_mm_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12));
  return (Vec)_mm512_shuffle_epi8(_mm512_loadu_si512(at), swap);
}

inline __attribute__((always_inline)) void transpose(Vec* rows) {
  __m512i pairs[16], fours[16], eights[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_epi32((__m512i)rows[i], (__m512i)rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_epi32((__m512i)rows[i], (__m512i)rows[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
    fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
    fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
    fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
  }
  // Now lane group g of fours[4 q + j] holds word 4 g + j of messages 4 q to 4 q + 3.
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) {
    eights[j] = _mm512_shuffle_i32x4(fours[j], fours[4 + j], 0x88);
    eights[4 + j] = _mm512_shuffle_i32x4(fours[j], fours[4 + j], 0xdd);
    eights[8 + j] = _mm512_shuffle_i32x4(fours[8 + j], fours[12 + j], 0x88);
    eights[12 + j] = _mm512_shuffle_i32x4(fours[8 + j], fours[12 + j], 0xdd);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) {
    rows[j] = (Vec)_mm512_shuffle_i32x4(eights[j], eights[8 + j], 0x88);
    rows[8 + j] = (Vec)_mm512_shuffle_i32x4(eights[j], eights[8 + j], 0xdd);
    rows[4 + j] = (Vec)_mm512_shuffle_i32x4(eights[4 + j], eights[12 + j], 0x88);
    rows[12 + j] = (Vec)_mm512_shuffle_i32x4(eights[4 + j], eights[12 + j], 0xdd);
  }
}

#define ROTATE(x, n) ((Vec)_mm512_ror_epi32((__m512i)(x), (n)))
#define XOR3(x, y, z) ((Vec)_mm512_ternarylogic_epi32((__m512i)(x), (__m512i)(y), (__m512i)(z), 0x96))
#define CHOOSE(x, y, z) ((Vec)_mm512_ternarylogic_epi32((__m512i)(x), (__m512i)(y), (__m512i)(z), 0xca))
#define MAJORITY(x, y, z) ((Vec)_mm512_ternarylogic_epi32((__m512i)(x), (__m512i)(y), (__m512i)(z), 0xe8))
#include "sha256_lanes_body.h"
#undef ROTATE
#undef XOR3
#undef CHOOSE
#undef MAJORITY
}  // namespace
}  // namespace avx512
#pragma GCC pop_options

namespace {

bool hasShaExtensions() {
  unsigned a, b = 0, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 29)) != 0;
}

size_t widestLanes() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) return 16;
  // One message at a time with SHA extensions is as fast as eight in AVX2.
  return __builtin_cpu_supports("avx2") && !hasShaExtensions() ? 8 : 0;
}

Compress compressOf(size_t lanes) { return lanes == 16 ? avx512::compress : avx2::compress; }

}  // namespace
#else
namespace {
bool hasShaExtensions() { return true; }
size_t widestLanes() { return 0; }
Compress compressOf(size_t) { return nullptr; }
}  // namespace
#endif

namespace {

std::atomic<size_t>& lanesInUse() {
  static std::atomic<size_t> lanes{widestLanes()};
  return lanes;
}

struct Lanes {
  size_t lanes;
  Compress compress;

  void fill(uint32_t* state, const uint32_t* words) const {
    for (size_t word = 0; word < 8; word++)
      for (size_t lane = 0; lane < lanes; lane++) state[word * lanes + lane] = words[word];
  }

  /** One block that is the same for all messages. */
  void common(uint32_t* state, const uint8_t* block) const {
    const uint8_t* data[kLanesMax];
    for (size_t lane = 0; lane < lanes; lane++) data[lane] = block;
    compress(state, data, 1);
  }

  /** Section 5.1.1: the padding of messages of so many bytes, a multiple of 64. */
  void pad(uint32_t* state, uint64_t length) const {
    uint8_t block[kBlock] = {0x80};
    writeWord(block + 56, static_cast<uint32_t>(length >> 29));
    writeWord(block + 60, static_cast<uint32_t>(length << 3));
    common(state, block);
  }

  /** Unused lanes hash the first message once more. */
  void messages(uint32_t* state, const uint8_t* const* given, size_t count, size_t length) const {
    const uint8_t* data[kLanesMax];
    for (size_t lane = 0; lane < lanes; lane++) data[lane] = given[lane < count ? lane : 0];
    compress(state, data, length / kBlock);
  }

  void digest(const uint32_t* state, size_t lane, uint8_t* out) const {
    for (size_t word = 0; word < 8; word++) writeWord(out + word * 4, state[word * lanes + lane]);
  }
};

}  // namespace

size_t sha256Lanes() { return lanesInUse(); }

size_t limitSha256Lanes(size_t most) {
  const size_t widest = widestLanes();
  // A test may ask for eight lanes where sixteen would be taken, or where SHA extensions would.
#if defined(__x86_64__)
  const bool has8 = __builtin_cpu_supports("avx2") != 0;
#else
  const bool has8 = false;
#endif
  lanesInUse() = most >= widest ? widest : most >= 8 && has8 ? 8 : 0;
  return lanesInUse();
}

size_t sha256LanesWorthwhile() {
  static const size_t count = hasShaExtensions() ? 10 : 2;
  return count;
}

LaneHmac::LaneHmac(const uint8_t* key, size_t lanes) : lanes_(lanes) {
  const Lanes work{lanes, compressOf(lanes)};
  uint8_t block[kBlock];
  const auto keyed = [&](uint32_t* state, uint8_t pad) {
    memset(block, pad, kBlock);
    for (size_t i = 0; i < kDigest; i++) block[i] ^= key[i];
    work.fill(state, kInitial);
    work.common(state, block);
  };
  keyed(inner_, 0x36);
  keyed(outer_, 0x5c);
}

void LaneHmac::run(const uint8_t* const* messages, size_t count, size_t length, uint8_t* const* digests) const {
  const Lanes work{lanes_, compressOf(lanes_)};
  alignas(64) uint32_t state[8 * kLanesMax];
  memcpy(state, inner_, sizeof state);
  work.messages(state, messages, count, length);
  work.pad(state, kBlock + length);

  // The inner digests with their padding are one block each.
  uint8_t blocks[kLanesMax][kBlock] = {};
  const uint8_t* inner[kLanesMax];
  for (size_t lane = 0; lane < lanes_; lane++) {
    work.digest(state, lane, blocks[lane]);
    blocks[lane][kDigest] = 0x80;
    writeWord(blocks[lane] + 60, (kBlock + kDigest) * 8);
    inner[lane] = blocks[lane];
  }
  memcpy(state, outer_, sizeof state);
  work.compress(state, inner, 1);
  for (size_t lane = 0; lane < count; lane++) work.digest(state, lane, digests[lane]);
}

void sha256InLanes(size_t lanes, const uint8_t* const* messages, size_t count, size_t length, uint8_t* const* digests) {
  const Lanes work{lanes, compressOf(lanes)};
  alignas(64) uint32_t state[8 * kLanesMax];
  work.fill(state, kInitial);
  work.messages(state, messages, count, length);
  work.pad(state, length);
  for (size_t lane = 0; lane < count; lane++) work.digest(state, lane, digests[lane]);
}
