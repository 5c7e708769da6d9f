#include "opening.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "batch.h"
#include "chunks.h"
#include "record.h"

namespace {

/** What records were sealed for, as src/native/addon-pipeline.ts lays it out: slot u32 | id | key | aadPrefix of each. */
class Places {
 public:
  static constexpr size_t kBytes = 4 + kId + kKey + kAadPrefix;
  explicit Places(Bytes view) : bytes_(copyOf(view)) {}
  Place operator[](size_t index) const {
    const uint8_t* at = bytes_.data() + index * kBytes;
    const uint32_t slot = static_cast<uint32_t>(at[0]) << 24 | at[1] << 16 | at[2] << 8 | at[3];
    return {slot, at + 4, at + 4 + kId, at + 4 + kId + kKey};
  }

 private:
  std::vector<uint8_t> bytes_;
};

/** The views of an array that is made for one call, so that nothing else changes it. */
std::vector<Bytes> viewsOf(napi_env env, Arguments& args, size_t index) {
  bool is_array = false;
  napi_is_array(env, args.value(index), &is_array);
  uint32_t count = 0;
  if (is_array) napi_get_array_length(env, args.value(index), &count);
  args.must(is_array, "An array was expected");
  std::vector<Bytes> views(count);
  for (uint32_t at = 0; at < count && args.ok(); at++) {
    napi_value element;
    napi_get_element(env, args.value(index), at, &element);
    views[at] = args.viewOf(element);
  }
  return views;
}

/** The first bad record of a batch by position, whichever part met it first: 8 x position + fault. */
class FirstFault {
 public:
  void note(size_t index, Fault fault) {
    const size_t code = index * 8 + static_cast<size_t>(fault);
    for (size_t known = code_; code < known && !code_.compare_exchange_weak(known, code);) {
    }
  }
  double code() const { return code_ == SIZE_MAX ? -1.0 : static_cast<double>(code_); }

 private:
  std::atomic<size_t> code_{SIZE_MAX};
};

bool isContentOf(const uint8_t* content, size_t length, const uint8_t* key, const uint8_t* id) {
  uint8_t found[kId];
  Digest(key).run(content, length, found);
  return !isZero(content, length) && memcmp(found, id, kId) == 0;
}

/** 0, or errno. */
int writeAll(int fd, const uint8_t* bytes, size_t length, off_t offset) {
  for (size_t done = 0; done < length;) {
    const ssize_t written = pwrite(fd, bytes + done, length - done, offset + static_cast<off_t>(done));
    if (written > 0) done += static_cast<size_t>(written);
    else if (written == 0) return EIO;
    else if (errno != EINTR) return errno;
  }
  return 0;
}

}  // namespace

// (buffers: stored and target of each record in turn, places). Resolves to -1, or 8 x position + fault.
napi_value openChunks(napi_env env, napi_callback_info info) {
  Arguments args(env, info, 2);
  const std::vector<Bytes> buffers = viewsOf(env, args, 0);
  const Bytes places_view = args.bytes(1);
  const size_t count = buffers.size() / 2;
  const bool fits = buffers.size() % 2 == 0 && places_view.length == count * Places::kBytes;
  if (!args.must(fits, "The records' arrays do not fit each other")) return nullptr;
  size_t bytes = 0;
  for (size_t index = 0; index < count; index++) {
    args.must(buffers[index * 2].length <= kContentMax + kOverhead, "A stored record is too large");
    args.must(buffers[index * 2 + 1].length <= kChunkMax, "A target is larger than the largest chunk");
    bytes += buffers[index * 2 + 1].length;
  }
  if (!args.ok()) return nullptr;

  auto fault = std::make_shared<FirstFault>();
  Batch batch;
  batch.run = [=, places = Places(places_view), next = counter()](unsigned) {
    Sealer sealer;
    for (size_t index; (index = (*next)++) < count;) {
      const Bytes stored = buffers[index * 2], target = buffers[index * 2 + 1];
      const Fault found = sealer.open(stored.data, stored.length, places[index], target.data, target.length);
      if (found == Fault::kNone) continue;
      fault->note(index, found);
      next->store(count);  // No later record is begun.
    }
  };
  batch.result = [=] { return fault->code(); };
  return startBatch(env, args.values(), partsFor(bytes, count), std::move(batch));
}

// (fd, chunkSize, end, idKey, stored of each record, places, counts: how many offsets each has, checks: 1 where its id is
// computed anew, offsets). Each content is written as soon as it is proven, while it lies in the processor's cache.
// Resolves to -1, to 8 x position + fault, or to -1 - errno.
napi_value writeChunks(napi_env env, napi_callback_info info) {
  Arguments args(env, info, 9);
  const int fd = static_cast<int>(args.integer(0));
  const uint64_t chunk_size = args.integer(1);
  const uint64_t end = args.integer(2);
  const Bytes id_key = args.bytes(3);
  const std::vector<Bytes> stored = viewsOf(env, args, 4);
  const Bytes places_view = args.bytes(5), count_view = args.words(6), checks_view = args.bytes(7), offset_view = args.numbers(8);
  const size_t count = stored.size();
  const bool fits = isChunkSize(chunk_size) && id_key.length == kKey && places_view.length == count * Places::kBytes &&
                    count_view.length == count * 4 && checks_view.length == count;
  if (!args.must(fits, "The records' arrays do not fit each other")) return nullptr;
  for (const Bytes& record : stored)
    if (!args.must(record.length <= kContentMax + kOverhead, "A stored record is too large")) return nullptr;
  std::vector<size_t> firsts{0};
  for (const uint32_t offsets : wordsOf(count_view)) firsts.push_back(firsts.back() + offsets);
  std::vector<double> offsets(offset_view.length / 8);
  if (!offsets.empty()) memcpy(offsets.data(), offset_view.data, offset_view.length);
  if (!args.must(firsts.back() == offsets.size(), "The records' arrays do not fit each other")) return nullptr;
  const double limit = static_cast<double>(end);
  const bool inside = std::all_of(offsets.begin(), offsets.end(), [=](double offset) { return offset >= 0 && offset < limit; });
  if (!args.must(inside, "An offset lies past the end")) return nullptr;

  auto fault = std::make_shared<FirstFault>();
  auto failure = std::make_shared<std::atomic<int>>(0);
  Batch batch;
  batch.run = [=, places = Places(places_view), checks = copyOf(checks_view), key = copyOf(id_key), next = counter()](unsigned) {
    Sealer sealer;
    uint8_t* const content = contentMemory(chunk_size);
    for (size_t index; (index = (*next)++) < count;) {
      const Place place = places[index];
      Fault found = sealer.open(stored[index].data, stored[index].length, place, content, chunk_size);
      if (found == Fault::kNone && checks[index] && !isContentOf(content, chunk_size, key.data(), place.id)) found = Fault::kId;
      if (found != Fault::kNone) {
        fault->note(index, found);
        next->store(count);
        continue;
      }
      for (size_t at = firsts[index]; at < firsts[index + 1]; at++) {
        const uint64_t offset = static_cast<uint64_t>(offsets[at]);
        const int error = writeAll(fd, content, std::min<uint64_t>(chunk_size, end - offset), static_cast<off_t>(offset));
        if (error == 0) continue;
        *failure = error;
        next->store(count);
        break;
      }
    }
  };
  batch.result = [=] { return *failure ? -1.0 - *failure : fault->code(); };
  return startBatch(env, args.values(), partsFor(count * chunk_size, count), std::move(batch));
}
