#include "fat_times.h"

#include <algorithm>

#include "wire.h"

int64_t dosTime(uint16_t date, uint16_t time, uint8_t hundredths) {
  // Of damage the nearest date that there is.
  const int64_t year = 1980 + (date >> 9);
  const int64_t month = std::clamp(date >> 5 & 15, 1, 12);
  const int64_t day = std::max(date & 31, 1);
  // Days since 1970, with the years counted from March, so that the leap day is the last.
  const int64_t shifted = month > 2 ? year : year - 1;
  const int64_t dayOfYear = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  const int64_t days = shifted * 365 + shifted / 4 - shifted / 100 + shifted / 400 + dayOfYear - 719468;
  const int64_t seconds = days * 86400 + (time >> 11) * 3600 + (time >> 5 & 63) * 60 + (time & 31) * 2 + hundredths / 100;
  return guest::nanoseconds(seconds, hundredths % 100 * 10'000'000u);
}
