// libext2fs reads its blocks here.
#pragma once

#include <ext2fs/ext2fs.h>

#include "blocks.h"

// What `ext2fs_open2` opens next in this thread. The slice outlives the filesystem.
void openNext(const Slice& slice);
io_manager sliceManager();
