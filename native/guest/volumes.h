// The volumes on the disks of a point, and what can be done with each.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "filesystem.h"
#include "probe.h"

struct Volume {
  std::string name;
  std::string disk;
  Slice slice;
  Probed probed;
  // 'readable', 'unsupported' or 'nothing'.
  std::string state;
  bool needsAppliance = false;
};

// Throws where a disk cannot be read.
std::vector<Volume> findVolumes(Blocks& blocks);

// Throws where it is damaged.
std::unique_ptr<Filesystem> openVolume(const Volume& volume);

// As docs/guest-protocol.md has it.
std::string volumesAsJson(const std::vector<Volume>& volumes);
