#include "batch.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>

namespace {

/** Below this a second thread costs more than it saves. */
constexpr size_t kPartBytes = 128 * 1024;
/** libuv's pool has four threads by default, and file reads want some of them. */
constexpr size_t kPartsMax = 4;

struct Running;

struct Part {
  Running* running = nullptr;
  unsigned index = 0;
  napi_async_work work = nullptr;
};

struct Running {
  Batch batch;
  std::vector<Part> parts;
  /** Counted down by the pool threads: who brings it to 0 finishes. */
  std::atomic<unsigned> unfinished{0};
  std::atomic<bool> failed{false};
  /** Counted down by the thread of JavaScript: who brings it to 0 settles. */
  unsigned incomplete = 0;
  bool cancelled = false;
  napi_deferred deferred = nullptr;
  napi_ref keep = nullptr;
};

void execute(napi_env, void* data) {
  Part* part = static_cast<Part*>(data);
  Running* running = part->running;
  try {
    running->batch.run(part->index);
    if (--running->unfinished == 0 && running->batch.finish && !running->failed) running->batch.finish();
  } catch (...) {
    running->failed = true;
  }
}

void settle(napi_env env, Running* running) {
  napi_delete_reference(env, running->keep);
  napi_value value;
  if (running->failed || running->cancelled) {
    napi_value message;
    napi_create_string_utf8(env, "The addon ran out of memory or was stopped", NAPI_AUTO_LENGTH, &message);
    napi_create_error(env, nullptr, message, &value);
    napi_reject_deferred(env, running->deferred, value);
  } else {
    napi_create_double(env, running->batch.result ? running->batch.result() : 0, &value);
    napi_resolve_deferred(env, running->deferred, value);
  }
}

void complete(napi_env env, napi_status status, void* data) {
  Part* part = static_cast<Part*>(data);
  Running* running = part->running;
  if (status != napi_ok) running->cancelled = true;
  napi_delete_async_work(env, part->work);
  if (--running->incomplete > 0) return;
  settle(env, running);
  delete running;
}

}  // namespace

unsigned partsFor(size_t bytes, size_t items) {
  static const size_t processors = static_cast<size_t>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  const size_t parts = std::min({processors, kPartsMax, bytes / kPartBytes, items});
  return static_cast<unsigned>(std::max<size_t>(1, parts));
}

napi_value startBatch(napi_env env, const std::vector<napi_value>& keep, unsigned parts, Batch batch) {
  auto running = std::make_unique<Running>();
  running->batch = std::move(batch);
  running->parts.resize(parts);
  running->unfinished = parts;
  running->incomplete = parts;

  napi_value kept, name, promise;
  napi_create_array_with_length(env, keep.size(), &kept);
  for (uint32_t i = 0; i < keep.size(); i++) napi_set_element(env, kept, i, keep[i]);
  napi_create_reference(env, kept, 1, &running->keep);
  napi_create_string_utf8(env, "lifeboat", NAPI_AUTO_LENGTH, &name);
  napi_create_promise(env, &running->deferred, &promise);

  for (unsigned index = 0; index < parts; index++) {
    Part& part = running->parts[index];
    part.running = running.get();
    part.index = index;
    napi_create_async_work(env, nullptr, name, execute, complete, &part, &part.work);
  }
  for (Part& part : running->parts) napi_queue_async_work(env, part.work);
  running.release();
  return promise;
}
