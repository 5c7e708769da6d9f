// The table of clusters that FAT and exFAT have in common.
#pragma once

#include <cstdint>
#include <list>
#include <vector>

#include "filesystem.h"

// Clusters that follow each other on the disk.
struct ClusterRun {
  uint32_t first;
  uint32_t count;
};
using Chain = std::vector<ClusterRun>;

class FatTable {
 public:
  struct Layout {
    // Of an entry in bits: 12, 16 or 32.
    int width;
    uint64_t tableAt;
    // Where cluster 2 lies.
    uint64_t heapAt;
    uint32_t clusterBytes;
    // Clusters 2 to 1 + this.
    uint32_t clusters;
  };

  FatTable(const Slice& slice, const Layout& layout) : slice_(slice), layout_(layout) {}

  const Layout& layout() const { return layout_; }
  bool isCluster(uint32_t cluster) const { return cluster >= 2 && cluster - 2 < layout_.clusters; }
  uint64_t placeOf(uint32_t cluster) const { return layout_.heapAt + uint64_t{cluster - 2} * layout_.clusterBytes; }
  // 0 where none follows. Throws where the table leads out of the disk.
  uint32_t after(uint32_t cluster);
  // At most `most` clusters from the first. Throws where it leads out of the disk, and where it has fewer than `least`.
  const Chain& chain(uint32_t first, uint32_t least, uint32_t most);
  // Throws where it cannot be read.
  uint32_t countFree();
  bool isFree(uint32_t cluster) { return entry(cluster) == 0; }

 private:
  uint32_t entry(uint32_t cluster);

  struct Kept {
    uint32_t first;
    uint32_t most;
    uint64_t count;
    Chain chain;
  };

  const Slice& slice_;
  const Layout layout_;
  std::list<Kept> kept_;
  std::vector<uint8_t> page_;
  uint64_t pageAt_ = ~0ull;
};

// The range of a file whose chain begins with its first byte, out of `chain`.
void takeRuns(const FatTable& table, const Chain& chain, uint64_t offset, uint64_t length, std::vector<Run>& runs);
