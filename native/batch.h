// One call from JavaScript that runs on libuv's pool in several parts and settles one promise.
#pragma once
#include <node_api.h>

#include <functional>
#include <vector>

struct Batch {
  /** Runs on a pool thread, once for each part, at the same time. */
  std::function<void(unsigned part)> run;
  /** Runs on a pool thread after the last part, if there is anything to do. */
  std::function<void()> finish;
  /** The number that the promise resolves to. */
  std::function<double()> result;
};

/** Parts that are worth their hand-off for work over this many bytes. */
unsigned partsFor(size_t bytes, size_t items);

/** Keeps `keep` alive until the promise, which is returned, settles. It rejects where a part threw (no memory). */
napi_value startBatch(napi_env env, const std::vector<napi_value>& keep, unsigned parts, Batch batch);
