#include "ext_runs.h"

#include <algorithm>

namespace {

const size_t kRunsMax = 4096;
// Of a file that is mapped block by block, looked at in one call.
const uint64_t kBlocksMax = 65536;

// Collects what lies between two offsets of a file.
class Range {
 public:
  Range(uint64_t from, uint64_t to, std::vector<Run>& runs) : at_(from), end_(to), runs_(runs) {}

  bool isDone() const { return at_ >= end_ || runs_.size() >= kRunsMax; }
  uint64_t at() const { return at_; }

  // The file from here to `to` lies at `place`, which is that of the file's offset `from`.
  void take(uint64_t from, uint64_t to, bool isHole, uint64_t place) {
    const uint64_t start = std::max(at_, from);
    const uint64_t stop = std::min(end_, to);
    if (stop <= start) return;
    const Run run{stop - start, isHole, isHole ? 0 : place + (start - from)};
    Run* last = runs_.empty() ? nullptr : &runs_.back();
    if (last && last->isHole == isHole && (isHole || last->at + last->length == run.at))
      last->length += run.length;
    else
      runs_.push_back(run);
    at_ = stop;
  }

  void takeHole(uint64_t to) { take(at_, to, true, 0); }
  void takeRest() { takeHole(end_); }

 private:
  uint64_t at_;
  const uint64_t end_;
  std::vector<Run>& runs_;
};

errcode_t takeExtents(ext2_filsys fs, ext2_extent_handle_t handle, Range& range) {
  const uint64_t blockSize = fs->blocksize;
  ext2fs_extent extent;
  // To the extent that has the block, else to one near it.
  errcode_t error = ext2fs_extent_goto(handle, range.at() / blockSize);
  if (error != 0 && error != EXT2_ET_EXTENT_NOT_FOUND) return error;
  error = ext2fs_extent_get(handle, EXT2_EXTENT_CURRENT, &extent);
  if (error == EXT2_ET_NO_CURRENT_NODE) {
    range.takeRest();
    return 0;
  }
  while (!range.isDone()) {
    if (error == EXT2_ET_EXTENT_NO_NEXT) {
      range.takeRest();
      return 0;
    }
    if (error != 0) return error;
    const uint64_t from = extent.e_lblk * blockSize;
    const uint64_t to = from + extent.e_len * blockSize;
    // Extents that go back are damage, and would go on for ever.
    if (extent.e_flags & EXT2_EXTENT_FLAGS_LEAF && to > range.at()) {
      range.takeHole(from);
      range.take(from, to, (extent.e_flags & EXT2_EXTENT_FLAGS_UNINIT) != 0, extent.e_pblk * blockSize);
    }
    error = ext2fs_extent_get(handle, EXT2_EXTENT_NEXT_LEAF, &extent);
  }
  return 0;
}

errcode_t takeBlocks(ext2_filsys fs, ext2_ino_t number, ext2_inode& inode, Range& range) {
  const uint64_t blockSize = fs->blocksize;
  for (uint64_t looked = 0; !range.isDone() && looked < kBlocksMax; looked++) {
    const uint64_t block = range.at() / blockSize;
    blk64_t place = 0;
    const errcode_t error = ext2fs_bmap2(fs, number, &inode, nullptr, 0, block, nullptr, &place);
    if (error != 0) return error;
    range.take(block * blockSize, (block + 1) * blockSize, place == 0, place * blockSize);
  }
  return 0;
}

}  // namespace

errcode_t extRuns(ext2_filsys fs, ext2_ino_t number, ext2_inode& inode, uint64_t offset, uint64_t length, std::vector<Run>& runs) {
  Range range(offset, offset + length, runs);
  if (!(inode.i_flags & EXT4_EXTENTS_FL)) return takeBlocks(fs, number, inode, range);
  ext2_extent_handle_t handle;
  errcode_t error = ext2fs_extent_open2(fs, number, &inode, &handle);
  if (error != 0) return error;
  error = takeExtents(fs, handle, range);
  ext2fs_extent_free(handle);
  return error;
}
