// The addon's table of calls. src/native/addon.ts is its only caller and has their types.
#include <malloc.h>
#include <node_api.h>

#include <exception>

#include "file_attributes.h"
#include "fuse_device.h"
#include "opening.h"
#include "pipeline.h"
#include "place_file.h"
#include "record.h"
#include "scattered.h"
#include "sparse_file.h"

/** Raised with every change of the calls, so that TypeScript never meets an addon of another version. */
constexpr double kVersion = 8;

NAPI_MODULE_INIT() {
#if defined(__GLIBC__)
  // glibc gives each of the pool's threads an arena of its own, which keeps what was freed there: 4 MiB of a capture's peak.
  mallopt(M_ARENA_MAX, 2);
  // Where large pieces come and go, glibc soon keeps up to 64 MiB of what was freed. Told its own defaults it goes on giving it
  // back: 12 to 14 MiB of a server's peak, 1 to 2 of a capture's, at the same CPU.
  mallopt(M_TRIM_THRESHOLD, 128 * 1024);
  mallopt(M_MMAP_THRESHOLD, 128 * 1024);
#endif
  try {
    loadCrypto();
  } catch (const std::exception& error) {
    napi_throw_error(env, nullptr, error.what());
    return nullptr;
  }
  napi_value version;
  napi_create_double(env, kVersion, &version);
  const napi_property_descriptor calls[] = {
      {"version", nullptr, nullptr, nullptr, nullptr, version, napi_enumerable, nullptr},
      {"digestChunks", nullptr, digestChunks, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"digestUnits", nullptr, digestUnits, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"limitLanes", nullptr, limitLanes, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"compressChunks", nullptr, compressChunks, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"sealChunks", nullptr, sealChunks, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"openChunks", nullptr, openChunks, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"writeChunks", nullptr, writeChunks, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"seekFile", nullptr, seekFile, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"allocateFile", nullptr, allocateFile, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"writeBlocks", nullptr, writeBlocks, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"readBlocks", nullptr, readBlocks, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"lockFile", nullptr, lockFile, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"socketPair", nullptr, socketPair, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"receiveDescriptor", nullptr, receiveDescriptor, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"watchDescriptor", nullptr, watchDescriptor, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"unwatchDescriptor", nullptr, unwatchDescriptor, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"readDevice", nullptr, readDevice, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"writeDevice", nullptr, writeDevice, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"setFileXattr", nullptr, setFileXattr, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"readFileXattrs", nullptr, readFileXattrs, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"setFileTimes", nullptr, setFileTimes, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"makeSpecialFile", nullptr, makeSpecialFile, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"placeFile", nullptr, placeFile, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"renameToNew", nullptr, renameToNew, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
  };
  napi_define_properties(env, exports, sizeof calls / sizeof *calls, calls);
  return exports;
}
