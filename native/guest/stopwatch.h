// The time that requests take: a filesystem can be made so that it is computed for ever. Whoever computes for too long ends the
// process, since a parser cannot be stopped otherwise; waiting for the disk is not counted.
#pragma once

#include <cstdint>

// Of the calling thread, while it lives.
class Computing {
 public:
  Computing();
  ~Computing();
};

class Waiting {
 public:
  Waiting();
  ~Waiting();
};

// Looks at all threads each second, and does not return.
void watchRequests(uint64_t computeMs);
