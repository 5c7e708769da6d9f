#include "pipeline.h"

#include <algorithm>
#include <memory>

#include "arguments.h"
#include "batch.h"
#include "chunks.h"
#include "record.h"
#include "sha256_lanes.h"

namespace {

constexpr uint64_t kSlots = 65535;

/** Chunks that wait for a group to be hashed together, and their ids. */
class IdGroup {
 public:
  IdGroup(const uint8_t* key, size_t chunk_size) : lanes_(sha256Lanes()), chunk_size_(chunk_size), single_(key) {
    if (lanes_ > 0) hmac_ = std::make_unique<LaneHmac>(key, lanes_);
  }

  void add(const uint8_t* chunk, uint8_t* id) {
    if (!hmac_) return single_.run(chunk, chunk_size_, id);
    chunks_[count_] = chunk;
    ids_[count_] = id;
    if (++count_ == lanes_) finish();
  }

  void finish() {
    if (count_ >= sha256LanesWorthwhile()) hmac_->run(chunks_, count_, chunk_size_, ids_);
    else
      for (size_t n = 0; n < count_; n++) single_.run(chunks_[n], chunk_size_, ids_[n]);
    count_ = 0;
  }

 private:
  size_t lanes_, chunk_size_, count_ = 0;
  Digest single_;
  std::unique_ptr<LaneHmac> hmac_;
  const uint8_t* chunks_[kLanesMax];
  uint8_t* ids_[kLanesMax];
};

}  // namespace

// (source, chunkSize, idKey, ids, zero)
napi_value digestChunks(napi_env env, napi_callback_info info) {
  Arguments args(env, info, 5);
  const Bytes source = args.bytes(0);
  const uint64_t chunk_size = args.integer(1);
  const Bytes key = args.bytes(2), ids = args.bytes(3), zero = args.bytes(4);
  if (!args.must(isChunkSize(chunk_size) && source.length % chunk_size == 0, "Not a chunk size")) return nullptr;
  const size_t count = source.length / chunk_size;
  const bool fits = key.length == kKey && ids.length == count * kId && zero.length == count;
  if (!args.must(fits, "The digests' arrays do not fit the source")) return nullptr;

  Batch batch;
  batch.run = [=, key = copyOf(key), next = counter()](unsigned) {
    IdGroup group(key.data(), chunk_size);
    for (size_t index; (index = (*next)++) < count;) {
      const uint8_t* chunk = source.data + index * chunk_size;
      zero.data[index] = isZero(chunk, chunk_size);
      if (!zero.data[index]) group.add(chunk, ids.data + index * kId);
    }
    group.finish();
  };
  return startBatch(env, args.values(), partsFor(source.length, count), std::move(batch));
}

// (source, unit, digests)
napi_value digestUnits(napi_env env, napi_callback_info info) {
  Arguments args(env, info, 3);
  const Bytes source = args.bytes(0);
  const uint64_t unit = args.integer(1);
  const Bytes digests = args.bytes(2);
  if (!args.must(isChunkSize(unit) && source.length % unit == 0, "Not whole units")) return nullptr;
  const size_t count = source.length / unit;
  if (!args.must(digests.length == count * kDigest, "The digests' array does not fit the source")) return nullptr;

  Batch batch;
  batch.run = [=](unsigned) {
    const size_t lanes = sha256Lanes();
    const bool together = lanes > 0 && count >= sha256LanesWorthwhile();
    const size_t width = together ? lanes : 1;
    for (size_t first = 0; first < count; first += width) {
      const size_t units = std::min(width, count - first);
      const uint8_t* messages[kLanesMax];
      uint8_t* places[kLanesMax];
      for (size_t n = 0; n < units; n++) {
        messages[n] = source.data + (first + n) * unit;
        places[n] = digests.data + (first + n) * kDigest;
      }
      if (together) sha256InLanes(lanes, messages, units, unit, places);
      else sha256(messages[0], unit, places[0]);
    }
  };
  return startBatch(env, args.values(), 1, std::move(batch));
}

// (most): for tests. Gives the width that is used from now on.
napi_value limitLanes(napi_env env, napi_callback_info info) {
  Arguments args(env, info, 1);
  const uint64_t most = args.integer(0);
  if (!args.ok()) return nullptr;
  napi_value lanes;
  napi_create_double(env, static_cast<double>(limitSha256Lanes(most)), &lanes);
  return lanes;
}

// (source, chunkSize, indexes, target, targetOffset, lengths)
napi_value compressChunks(napi_env env, napi_callback_info info) {
  Arguments args(env, info, 6);
  const Bytes source = args.bytes(0);
  const uint64_t chunk_size = args.integer(1);
  const Bytes index_view = args.words(2), target = args.bytes(3);
  const uint64_t offset = args.integer(4);
  const Bytes length_view = args.words(5);
  if (!args.must(isChunkSize(chunk_size) && source.length % chunk_size == 0, "Not a chunk size")) return nullptr;
  std::vector<uint32_t> indexes = wordsOf(index_view);
  const size_t count = indexes.size(), chunks = source.length / chunk_size, room = chunk_size + kOverhead;
  const bool inside = std::all_of(indexes.begin(), indexes.end(), [=](uint32_t index) { return index < chunks; });
  if (!args.must(inside, "A chunk index lies past the source")) return nullptr;
  const bool fits = length_view.length == count * 4 && offset <= target.length && count <= (target.length - offset) / room;
  if (!args.must(fits, "The target is too small for chunks that do not shrink")) return nullptr;

  // Parts take chunks one by one, and each record is written where it lies if none before it shrinks: fixed halves wait for
  // the slower one, and chunks differ by a factor of ten. The last part to end moves the records together.
  uint8_t* const start = target.data + offset;
  uint32_t* const lengths = reinterpret_cast<uint32_t*>(length_view.data);

  Batch batch;
  batch.run = [=, indexes = std::move(indexes), next = counter()](unsigned) {
    for (size_t position; (position = (*next)++) < count;) {
      const uint8_t* chunk = source.data + indexes[position] * chunk_size;
      lengths[position] = static_cast<uint32_t>(encodeRecord(chunk, chunk_size, start + position * room) + kTag);
    }
  };
  batch.finish = [=] {
    uint8_t* end = start;
    for (size_t position = 0; position < count; position++) {
      memmove(end, start + position * room, lengths[position]);
      end += lengths[position];
    }
  };
  return startBatch(env, args.values(), partsFor(count * chunk_size, count), std::move(batch));
}

// (body, lengths, firstSlot, ids, key, aadPrefix)
napi_value sealChunks(napi_env env, napi_callback_info info) {
  Arguments args(env, info, 6);
  const Bytes body = args.bytes(0), length_view = args.words(1);
  const uint64_t first_slot = args.integer(2);
  const Bytes ids = args.bytes(3), key = args.bytes(4), prefix = args.bytes(5);
  if (!args.ok()) return nullptr;
  const std::vector<uint32_t> lengths = wordsOf(length_view);
  const size_t count = lengths.size();
  std::vector<size_t> offsets;
  offsets.reserve(count + 1);
  offsets.push_back(0);
  for (const uint32_t length : lengths) {
    if (!args.must(length >= kOverhead && length <= kContentMax + kOverhead, "A record has an absurd length")) return nullptr;
    offsets.push_back(offsets.back() + length);
  }
  if (!args.must(offsets.back() == body.length, "The records do not fill the body")) return nullptr;
  if (!args.must(first_slot <= kSlots && count <= kSlots - first_slot, "A slot lies past the last one")) return nullptr;
  const bool fits = ids.length == count * kId && key.length == kKey && prefix.length == kAadPrefix;
  if (!args.must(fits, "Ids, key or AAD have the wrong length")) return nullptr;

  Batch batch;
  batch.run = [=, offsets = std::move(offsets), key = copyOf(key), prefix = copyOf(prefix), next = counter()](unsigned) {
    Sealer sealer;
    for (size_t index; (index = (*next)++) < count;) {
      const uint32_t slot = static_cast<uint32_t>(first_slot + index);
      const Place place{slot, ids.data + index * kId, key.data(), prefix.data()};
      sealer.seal(body.data + offsets[index], offsets[index + 1] - offsets[index], place);
    }
  };
  return startBatch(env, args.values(), partsFor(body.length, count), std::move(batch));
}
