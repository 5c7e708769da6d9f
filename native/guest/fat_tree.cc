#include "fat_tree.h"

#include <algorithm>
#include <array>
#include <cerrno>

namespace {

const uint64_t kPieceBytes = 128 * 1024;

}  // namespace

using guest::Attributes;
using guest::Kind;

FatFile FatTree::fileOf(uint64_t inode) {
  if (inode < 16 || (inode - 16) > slice_.size() / 32) throw Trouble(EINVAL, "a node that was never given out");
  return fileAt((inode - 16) * 32);
}

std::array<uint8_t, 32> FatTree::entryAt(uint64_t at) {
  std::array<uint8_t, 32> entry;
  checkRead(slice_.read(at, entry.data(), entry.size()));
  return entry;
}

Attributes FatTree::attributes(uint64_t inode) {
  Attributes result;
  result.inode = inode;
  result.xattrsKnown = true;
  if (inode == kFatRoot) {
    result.kind = Kind::directory;
    result.permissions = 0755;
    result.links = 2;
    return result;
  }
  const FatFile file = fileOf(inode);
  const uint64_t cluster = table_.layout().clusterBytes;
  result.kind = file.isDirectory ? Kind::directory : Kind::file;
  result.permissions = file.isDirectory ? 0755 : file.isReadOnly ? 0444 : 0644;
  result.links = file.isDirectory ? 2 : 1;
  if (!file.isDirectory) {
    if (file.size > slice_.size()) throw Trouble(EIO, "its size is absurd");
    result.size = file.size;
    result.allocated = (file.size + cluster - 1) / cluster * cluster;
  }
  result.modified = result.changed = file.modified;
  result.accessed = file.accessed;
  result.born = file.born;
  return result;
}

std::string FatTree::readLink(uint64_t) { throw Trouble(EINVAL, "not a symbolic link"); }

bool FatTree::runs(uint64_t inode, uint64_t offset, uint64_t length, std::vector<Run>& runs) {
  const FatFile file = fileOf(inode);
  const uint64_t end = offset + length;
  const uint64_t valid = std::clamp(file.valid, offset, end);
  if (valid > offset) {
    const uint64_t cluster = table_.layout().clusterBytes;
    const uint64_t count = (std::min(file.size, slice_.size()) + cluster - 1) / cluster;
    const uint32_t clusters = static_cast<uint32_t>(std::min<uint64_t>(count, table_.layout().clusters));
    if (clusters < count) throw Trouble(EIO, "it is larger than its disk");
    if (!file.isContiguous) {
      takeRuns(table_, table_.chain(file.first, clusters, clusters), offset, valid - offset, runs);
    } else {
      if (!table_.isCluster(file.first) || !table_.isCluster(file.first + clusters - 1)) throw Trouble(EIO, "it reaches past the end of its disk");
      takeRuns(table_, {{file.first, clusters}}, offset, valid - offset, runs);
    }
  }
  uint64_t covered = offset;
  for (const Run& run : runs) covered += run.length;
  if (covered == valid && end > valid) runs.push_back({end - valid, true, 0});
  return true;
}

void FatTree::forEachEntry(const FatFile& directory, uint64_t bytesMax, const Visit& visit) {
  const uint32_t clusterBytes = table_.layout().clusterBytes;
  const uint32_t most = static_cast<uint32_t>((bytesMax + clusterBytes - 1) / clusterBytes);
  Chain chain;
  if (directory.isContiguous) {
    const uint32_t count = static_cast<uint32_t>(std::min<uint64_t>(most, (directory.size + clusterBytes - 1) / clusterBytes));
    if (count == 0) return;
    if (!table_.isCluster(directory.first) || !table_.isCluster(directory.first + count - 1))
      throw Trouble(EIO, "it reaches past the end of its disk");
    chain = {{directory.first, count}};
  } else {
    chain = table_.chain(directory.first, 1, most);
  }
  for (const ClusterRun& run : chain)
    if (!visitRange(table_.placeOf(run.first), uint64_t{run.count} * clusterBytes, visit)) return;
}

void FatTree::forEachEntryIn(uint64_t at, uint64_t length, const Visit& visit) { visitRange(at, length, visit); }

bool FatTree::visitRange(uint64_t at, uint64_t length, const Visit& visit) {
  std::vector<uint8_t> piece;
  for (uint64_t done = 0; done < length; done += kPieceBytes) {
    piece.resize(std::min(kPieceBytes, length - done));
    checkRead(slice_.read(at + done, piece.data(), piece.size()));
    for (size_t i = 0; i + 32 <= piece.size(); i += 32)
      if (!visit(&piece[i], at + done + i)) return false;
  }
  return true;
}
