#include "record.h"

#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

#include <cstring>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "openssl.h"

namespace {

constexpr uint8_t kStored = 0;
constexpr uint8_t kZstd = 1;
/** As in src/native/twin.ts. Matches of four bytes instead of level 3's five: what shrinks 64 KiB most for the time it takes. */
constexpr int kLevel = 3;
constexpr int kMinMatch = 4;
/** A decoder of streams would allocate this; ours decodes straight into the target and only wants to agree with those. */
constexpr unsigned long long kWindowMax = 8 * 1024 * 1024;

EVP_CIPHER* gcm = nullptr;
EVP_MAC* hmac = nullptr;
EVP_MD* sha = nullptr;

void must(int result) {
  if (result != 1) throw std::runtime_error("OpenSSL refused a call");
}

struct FreeCompressor {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
};
struct FreeDecompressor {
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};

/** Contexts live as long as their pool thread: creating one costs about as much as compressing 64 KiB. */
ZSTD_CCtx* compressor() {
  thread_local std::unique_ptr<ZSTD_CCtx, FreeCompressor> context(ZSTD_createCCtx());
  if (!context) throw std::bad_alloc();
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, kLevel);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_minMatch, kMinMatch);
  return context.get();
}

ZSTD_DCtx* decompressor() {
  thread_local std::unique_ptr<ZSTD_DCtx, FreeDecompressor> context(ZSTD_createDCtx());
  if (!context) throw std::bad_alloc();
  return context.get();
}

uint8_t* scratch(size_t length) {
  thread_local std::vector<uint8_t> bytes;
  if (bytes.size() < length) bytes.resize(length);
  return bytes.data();
}

void writeBigEndian(uint8_t* at, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) *at++ = static_cast<uint8_t>(value >> shift);
}

void fillNonce(uint8_t* nonce, uint32_t slot) {
  memset(nonce, 0, 8);
  writeBigEndian(nonce + 8, slot);
}

void fillAad(uint8_t* aad, const Place& place) {
  memcpy(aad, place.aad_prefix, kAadPrefix);
  writeBigEndian(aad + kAadPrefix, place.slot);
  memcpy(aad + kAadPrefix + 4, place.id, kId);
}

/** Exactly one frame, no dictionary, bounded window, no other stated size: what src/native/zstd-frame.ts accepts. */
bool isSoleFrame(const uint8_t* frame, size_t length, size_t content_length) {
  ZSTD_frameHeader header;
  if (ZSTD_getFrameHeader(&header, frame, length) != 0 || header.frameType != ZSTD_frame) return false;
  const bool single_segment = (frame[4] & 0x20) != 0;
  if (header.dictID != 0 || (frame[4] & 3) != 0 || (!single_segment && header.windowSize > kWindowMax)) return false;
  if (header.frameContentSize != ZSTD_CONTENTSIZE_UNKNOWN && header.frameContentSize != content_length) return false;
  return ZSTD_findFrameCompressedSize(frame, length) == length;
}

Fault decompress(const uint8_t* frame, size_t length, uint8_t* target, size_t target_length) {
  if (!isSoleFrame(frame, length, target_length)) return Fault::kZstd;
  const size_t result = ZSTD_decompressDCtx(decompressor(), target, target_length, frame, length);
  return ZSTD_isError(result) || result != target_length ? Fault::kZstd : Fault::kNone;
}

}  // namespace

void loadCrypto() {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  if (OpenSSL_version_num() >> 28 != 3) throw std::runtime_error("This Node was not built with OpenSSL 3");
  if (!gcm) gcm = EVP_CIPHER_fetch(nullptr, "AES-256-GCM", nullptr);
  if (!hmac) hmac = EVP_MAC_fetch(nullptr, "HMAC", nullptr);
  if (!sha) sha = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  if (!gcm || !hmac || !sha) throw std::runtime_error("This Node's OpenSSL has no AES-256-GCM, HMAC or SHA-256");
}

uint8_t* contentMemory(size_t length) {
  thread_local std::vector<uint8_t> bytes;
  if (bytes.size() < length) bytes.resize(length);
  return bytes.data();
}

void sha256(const uint8_t* data, size_t length, uint8_t* digest) {
  unsigned written = 0;
  must(EVP_Digest(data, length, digest, &written, sha, nullptr));
}

Digest::Digest(const uint8_t* key) : context_(EVP_MAC_CTX_new(hmac)) {
  if (!context_) throw std::bad_alloc();
  char name[] = "SHA256";
  const OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string("digest", name, 0), OSSL_PARAM_construct_end()};
  must(EVP_MAC_init(context_, key, kKey, params));
}

Digest::~Digest() { EVP_MAC_CTX_free(context_); }

void Digest::run(const uint8_t* data, size_t length, uint8_t* id) {
  size_t written = 0;
  must(EVP_MAC_init(context_, nullptr, 0, nullptr));
  must(EVP_MAC_update(context_, data, length));
  must(EVP_MAC_final(context_, id, &written, kId));
}

size_t encodeRecord(const uint8_t* chunk, size_t length, uint8_t* target) {
  // One byte less than the chunk is all the room that it gets: what does not shrink fails at once.
  const size_t frame = ZSTD_compress2(compressor(), target + kHead, length - 1, chunk, length);
  const bool shrinks = !ZSTD_isError(frame);
  if (!shrinks) memcpy(target + kHead, chunk, length);
  target[0] = shrinks ? kZstd : kStored;
  target[1] = static_cast<uint8_t>(length >> 16);
  target[2] = static_cast<uint8_t>(length >> 8);
  target[3] = static_cast<uint8_t>(length);
  return kHead + (shrinks ? frame : length);
}

Sealer::Sealer() : context_(EVP_CIPHER_CTX_new()) {
  if (!context_) throw std::bad_alloc();
}

Sealer::~Sealer() { EVP_CIPHER_CTX_free(context_); }

void Sealer::seal(uint8_t* record, size_t length, const Place& place) {
  uint8_t nonce[12], aad[kAad];
  fillNonce(nonce, place.slot);
  fillAad(aad, place);
  const bool same_key = key_ && memcmp(key_, place.key, kKey) == 0;
  must(EVP_EncryptInit_ex(context_, key_ ? nullptr : gcm, nullptr, same_key ? nullptr : place.key, nonce));
  key_ = place.key;
  int written = 0;
  const int plain = static_cast<int>(length - kTag);
  must(EVP_EncryptUpdate(context_, nullptr, &written, aad, kAad));
  must(EVP_EncryptUpdate(context_, record, &written, record, plain));
  must(EVP_EncryptFinal_ex(context_, record + plain, &written));
  must(EVP_CIPHER_CTX_ctrl(context_, kGcmGetTag, kTag, record + plain));
}

Fault Sealer::open(const uint8_t* stored, size_t length, const Place& place, uint8_t* target, size_t target_length) {
  if (length < kOverhead) return Fault::kShort;
  uint8_t nonce[12], aad[kAad], head[kHead], tag[kTag];
  fillNonce(nonce, place.slot);
  fillAad(aad, place);
  const bool same_key = key_ && memcmp(key_, place.key, kKey) == 0;
  must(EVP_DecryptInit_ex(context_, key_ ? nullptr : gcm, nullptr, same_key ? nullptr : place.key, nonce));
  key_ = place.key;
  int written = 0;
  must(EVP_DecryptUpdate(context_, nullptr, &written, aad, kAad));
  must(EVP_DecryptUpdate(context_, head, &written, stored, kHead));
  // Nothing is believed before the tag; the head only chooses where the payload is decrypted to.
  const size_t payload_length = length - kOverhead;
  const bool direct = head[0] == kStored && payload_length == target_length;
  uint8_t* payload = direct ? target : scratch(payload_length);
  if (payload_length > 0)
    must(EVP_DecryptUpdate(context_, payload, &written, stored + kHead, static_cast<int>(payload_length)));
  memcpy(tag, stored + length - kTag, kTag);
  must(EVP_CIPHER_CTX_ctrl(context_, kGcmSetTag, kTag, tag));
  uint8_t nothing[kTag];
  if (EVP_DecryptFinal_ex(context_, nothing, &written) != 1) return Fault::kTag;

  if (head[0] != kStored && head[0] != kZstd) return Fault::kCodec;
  const size_t stated = static_cast<size_t>(head[1]) << 16 | static_cast<size_t>(head[2]) << 8 | head[3];
  if (stated != target_length) return Fault::kLength;
  if (head[0] == kZstd) return decompress(payload, payload_length, target, target_length);
  return direct ? Fault::kNone : Fault::kLength;
}
