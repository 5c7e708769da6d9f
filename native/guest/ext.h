// ext2, ext3 and ext4 through libext2fs.
#pragma once

#include <memory>

#include "filesystem.h"

std::unique_ptr<Filesystem> openExt(const Slice& slice);
