// Runs one of the appliance's programs: it gets its words as arguments, never through a shell.
#pragma once
#include <string>
#include <vector>

#include "wire.h"

namespace guest {

struct Ran {
  /** errno where it could not be run. */
  int error = 0;
  /** Its exit code, or 128 and the signal. */
  int code = 0;
  std::string output;
  /** The end of what it complained about. */
  std::string complaints;
};

/** Waits for the program itself, not for what it leaves behind (a daemon that serves a mount holds its output open). */
Ran runProgram(const std::vector<std::string>& words, Bytes input, size_t outputMax);

}  // namespace guest
