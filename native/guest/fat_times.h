// Times as DOS wrote them: local, without saying of which zone; they are taken for UTC, as Linux does.
#pragma once

#include <cstdint>

// Nanoseconds since 1970. `hundredths` (0 to 199) are added to the two seconds that `time` counts in.
int64_t dosTime(uint16_t date, uint16_t time, uint8_t hundredths);
