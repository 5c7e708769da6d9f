// FAT12, FAT16, FAT32 and exFAT.
#pragma once

#include <memory>

#include "filesystem.h"

std::unique_ptr<Filesystem> openFat(const Slice& slice);
std::unique_ptr<Filesystem> openExfat(const Slice& slice);
