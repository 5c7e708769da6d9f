// NTFS, its file table through libtsk.
#pragma once

#include <memory>

#include "filesystem.h"

std::unique_ptr<Filesystem> openNtfs(const Slice& slice);
