// One record of a pack (docs/repository-format.md, section 4). Runs on pool threads.
#pragma once
#include <cstddef>
#include <cstdint>

constexpr size_t kHead = 4;
constexpr size_t kTag = 16;
constexpr size_t kOverhead = kHead + kTag;
constexpr size_t kContentMax = 0xffffff;
constexpr size_t kAadPrefix = 52;
constexpr size_t kAad = 88;
constexpr size_t kId = 32;
constexpr size_t kKey = 32;

/** The order is that of RECORD_FAULTS in src/native/record.ts. */
enum class Fault { kShort, kTag, kCodec, kLength, kZstd, kId, kNone };

/** Throws std::runtime_error where this process has no OpenSSL 3 with the algorithms. */
void loadCrypto();

/** One message. */
void sha256(const uint8_t* data, size_t length, uint8_t* digest);

/** Memory of this thread for one content, the caller's until the thread asks again. */
uint8_t* contentMemory(size_t length);

/** HMAC-SHA-256 under one key, one message after the other. */
class Digest {
 public:
  explicit Digest(const uint8_t* key);
  ~Digest();
  Digest(const Digest&) = delete;
  void run(const uint8_t* data, size_t length, uint8_t* id);

 private:
  struct EVP_MAC_CTX* context_;
};

/** Writes head and payload; the length of both. `target` has room for length + kHead. */
size_t encodeRecord(const uint8_t* chunk, size_t length, uint8_t* target);

struct Place {
  uint32_t slot;
  const uint8_t* id;
  const uint8_t* key;
  const uint8_t* aad_prefix;
};

/** AES-256-GCM over records; keeps the key schedule while the key stays the same. */
class Sealer {
 public:
  Sealer();
  ~Sealer();
  Sealer(const Sealer&) = delete;
  /** In place: plaintext and 16 bytes for the tag. */
  void seal(uint8_t* record, size_t length, const Place& place);
  Fault open(const uint8_t* stored, size_t length, const Place& place, uint8_t* target, size_t target_length);

 private:
  struct EVP_CIPHER_CTX* context_;
  const uint8_t* key_ = nullptr;
};
