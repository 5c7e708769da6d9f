// Whether the log of an NTFS has anything that is not on the disk yet.
#pragma once

#include <cstdint>
#include <vector>

// Of the beginning of $LogFile, at least two pages.
bool isLogClean(std::vector<uint8_t> log);
