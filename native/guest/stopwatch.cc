#include "stopwatch.h"

#include <time.h>
#include <unistd.h>

#include <array>
#include <atomic>

namespace {

int64_t nowMs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

// Since when a thread has computed, and how long it did before; 0: it does not.
struct Stopwatch {
  std::atomic<int64_t> since{0};
  std::atomic<int64_t> beforeMs{0};
};

std::array<Stopwatch, 64> watches;
std::atomic<size_t> used{0};
thread_local Stopwatch* mine = nullptr;

}  // namespace

Computing::Computing() {
  if (!mine) mine = &watches[used++ % watches.size()];
  mine->beforeMs = 0;
  mine->since = nowMs();
}

Computing::~Computing() { mine->since = 0; }

Waiting::Waiting() {
  if (!mine || mine->since == 0) return;
  mine->beforeMs += nowMs() - mine->since;
  mine->since = 0;
}

Waiting::~Waiting() {
  if (mine) mine->since = nowMs();
}

void watchRequests(uint64_t computeMs) {
  for (;;) {
    const timespec second{1, 0};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &second, nullptr);
    for (const Stopwatch& watch : watches) {
      const int64_t since = watch.since;
      if (since == 0 || watch.beforeMs + (nowMs() - since) < static_cast<int64_t>(computeMs)) continue;
      const char text[] = "a filesystem took too long to be read\n";
      (void)!write(2, text, sizeof text - 1);
      _exit(75);
    }
  }
}
