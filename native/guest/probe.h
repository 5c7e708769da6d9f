// What lies in a slice, by its magic numbers.
#pragma once

#include <string>

#include "blocks.h"

// What can be done with it.
enum class Content {
  unknown,
  // Nothing but zeros where anything would be.
  empty,
  // Known, and nobody's files: swap, a journal.
  nothing,
  ext,
  ntfs,
  fat,
  exfat,
  // Read by a whole system.
  appliance,
  // Read by the guest alone.
  guestOnly,
};

struct Probed {
  Content content = Content::unknown;
  // As blkid calls it.
  std::string type;
  std::string label;
  std::string uuid;
  std::string reason;
};

// Whether a Linux RAID has all of it, whatever it looks like from the front: a mirror of a whole disk has that disk's partitions.
bool isMirror(const Slice& slice);

// Throws where the slice cannot be read.
Probed probe(const Slice& slice);
