// The filesystems that are open, each by several views of it: neither library may be used by two threads at once.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>

#include "filesystem.h"

class Views {
 public:
  // A view for as long as somebody parses.
  class Lease {
   public:
    Lease(Views& views, uint32_t volume, std::unique_ptr<Filesystem> view)
        : views_(&views), volume_(volume), view_(std::move(view)) {}
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease() { views_->give(volume_, std::move(view_)); }
    Filesystem* operator->() const { return view_.get(); }
    Filesystem& operator*() const { return *view_; }

   private:
    Views* const views_;
    const uint32_t volume_;
    std::unique_ptr<Filesystem> view_;
  };

  // Waits where as many parse already. `open` makes one where none of this volume is free. Who has one takes no other.
  Lease take(uint32_t volume, const std::function<std::unique_ptr<Filesystem>()>& open);

 private:
  // Each has the tables of its filesystem in memory.
  static constexpr size_t kAtOnce = 4;
  static constexpr size_t kKept = 32;

  struct Idle {
    uint32_t volume;
    std::unique_ptr<Filesystem> view;
  };

  void give(uint32_t volume, std::unique_ptr<Filesystem> view);

  std::mutex lock_;
  std::condition_variable given_;
  size_t taken_ = 0;
  // The last used first.
  std::list<Idle> idle_;
};
