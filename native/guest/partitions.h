// The partition table of a disk: GPT, MBR with its logical partitions, or none.
#pragma once

#include <cstdint>
#include <vector>

#include "blocks.h"

// A part of a dynamic disk of Windows (LDM).
const uint8_t kDynamic = 0x42;

struct Partition {
  // As the table counts them, from 1.
  uint32_t number;
  uint64_t offset;
  uint64_t size;
  // As an MBR says it; of a GPT 0, or kDynamic.
  uint8_t type;
  // Its table lets it end behind the disk.
  bool isCut;
};

enum class Table { none, mbr, gpt };

struct Partitions {
  Table table = Table::none;
  std::vector<Partition> all;
};

// Throws where the disk cannot be read.
Partitions readPartitions(const Slice& disk);
