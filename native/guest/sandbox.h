// The cage of a process that parses what a guest wrote. Whatever a parser can be talked into, it can compute, answer on the
// descriptors that it was given, and die.
#pragma once

#include <cstdint>

struct Cage {
  // Descriptors below this one stay open; all others are closed.
  int descriptors;
  // Of address space.
  uint64_t memoryBytes;
  uint64_t cpuSeconds;
};

// First half, while there is one thread: no privileges, no environment, an empty folder without a way out where the kernel permits it,
// bounds on memory and time. Ends the process where a part that must work does not.
void shedPrivileges(const Cage& cage);

// Second half, for all threads, when the last of them was started: no system call but those that computing and answering take.
// Another one kills the process.
void closeCage(const Cage& cage);
