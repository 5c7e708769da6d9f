#include "views.h"

#include "stopwatch.h"

Views::Lease Views::take(uint32_t volume, const std::function<std::unique_ptr<Filesystem>()>& open) {
  std::unique_ptr<Filesystem> view;
  {
    std::unique_lock<std::mutex> guard(lock_);
    if (taken_ >= kAtOnce) {
      const Waiting waiting;
      given_.wait(guard, [this] { return taken_ < kAtOnce; });
    }
    taken_++;
    for (auto at = idle_.begin(); at != idle_.end() && !view; ++at) {
      if (at->volume != volume) continue;
      view = std::move(at->view);
      idle_.erase(at);
      break;
    }
  }
  try {
    if (!view) view = open();
  } catch (...) {
    give(volume, nullptr);
    throw;
  }
  return Lease(*this, volume, std::move(view));
}

void Views::give(uint32_t volume, std::unique_ptr<Filesystem> view) {
  std::list<Idle> closed;
  std::lock_guard<std::mutex> guard(lock_);
  taken_--;
  if (view) idle_.push_front({volume, std::move(view)});
  // Destroyed with the lock held no longer, since `closed` goes last.
  if (idle_.size() > kKept) closed.splice(closed.begin(), idle_, std::prev(idle_.end()));
  given_.notify_one();
}
