#include "tsk_image.h"

#include <algorithm>
#include <cstdlib>
#include <new>

ssize_t TskImage::read(TSK_IMG_INFO* info, TSK_OFF_T offset, char* target, size_t length) {
  const Slice& slice = *reinterpret_cast<Whole*>(info)->slice;
  if (offset < 0 || static_cast<uint64_t>(offset) >= slice.size()) return -1;
  const size_t there = std::min<uint64_t>(length, slice.size() - static_cast<uint64_t>(offset));
  if (slice.read(static_cast<uint64_t>(offset), target, there) != 0) {
    tsk_error_reset();
    tsk_error_set_errno(TSK_ERR_IMG_READ);
    tsk_error_set_errstr("the disk could not be read");
    return -1;
  }
  return static_cast<ssize_t>(there);
}

TskImage::TskImage(const Slice& slice) : whole_(static_cast<Whole*>(calloc(1, sizeof(Whole)))) {
  // Two MiB, most of it libtsk's own cache.
  if (!whole_) throw std::bad_alloc();
  whole_->slice = &slice;
  TSK_IMG_INFO& info = whole_->info;
  info.tag = TSK_IMG_INFO_TAG;
  info.itype = TSK_IMG_TYPE_EXTERNAL;
  info.size = static_cast<TSK_OFF_T>(slice.size());
  info.sector_size = 512;
  info.read = read;
  pthread_mutex_init(&info.cache_lock.mutex, nullptr);
}

TskImage::~TskImage() {
  pthread_mutex_destroy(&whole_->info.cache_lock.mutex);
  free(whole_);
}
