// Where the blocks of a file of ext2, ext3 or ext4 lie.
#pragma once

#include <ext2fs/ext2fs.h>

#include "filesystem.h"

// Appends runs that cover the range exactly, or its beginning where they are many.
errcode_t extRuns(ext2_filsys fs, ext2_ino_t number, ext2_inode& inode, uint64_t offset, uint64_t length, std::vector<Run>& runs);
