// libtsk reads its bytes here.
#pragma once

#include <tsk/libtsk.h>

#include "blocks.h"

// The image of a slice, which outlives it. Nothing of libtsk that opens files is linked.
class TskImage {
 public:
  explicit TskImage(const Slice& slice);
  ~TskImage();
  TSK_IMG_INFO* info() { return &whole_->info; }

 private:
  struct Whole {
    TSK_IMG_INFO info;
    const Slice* slice;
  };

  static ssize_t read(TSK_IMG_INFO* info, TSK_OFF_T offset, char* target, size_t length);

  Whole* whole_;
};
