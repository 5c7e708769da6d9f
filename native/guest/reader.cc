// The reader: parses ext2, ext3, ext4, NTFS, FAT and exFAT of a point's disks in a process that can do nothing else, and speaks
// docs/guest-protocol.md.
//
//   reader MEMORY-BYTES CPU-SECONDS COMPUTE-MS SIZE:NAME...     descriptor 3: the protocol, 4: the blocks of the disks
#include <limits.h>
#include <malloc.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <numeric>
#include <thread>

#include "blocks.h"
#include "directories.h"
#include "filesystem.h"
#include "sandbox.h"
#include "server.h"
#include "stopwatch.h"
#include "views.h"
#include "volumes.h"

namespace {

using namespace guest;

constexpr int kProtocol = 3;
constexpr int kBlocks = 4;
// As many reads of a slow store under way.
constexpr unsigned kThreads = 16;
// Half a page of a listing.
constexpr uint64_t kAttributesAtOnce = 1024;
struct Node {
  uint32_t volume;
  uint64_t inode;

  std::string bytes() const {
    std::string result(12, '\0');
    memcpy(&result[0], &volume, 4);
    memcpy(&result[4], &inode, 8);
    return result;
  }

  static Node of(Bytes bytes) {
    Node node;
    if (bytes.length != 12) throw Trouble(EINVAL, "a node that was never given out");
    memcpy(&node.volume, bytes.data, 4);
    memcpy(&node.inode, bytes.data + 4, 8);
    return node;
  }
};

class Reader final : public Server {
 public:
  Reader(Blocks& blocks, const Cage& cage) : blocks_(blocks), cage_(cage) {}

  const char* kind() const override { return "reader"; }

  Failure volumes(std::string& json) override {
    return guarded([&] { json = volumesAsJson(*found()); });
  }

  Failure unlock(const std::string&, Bytes) override { return {EOPNOTSUPP, "the reader opens nothing that is encrypted"}; }

  Failure root(const std::string& name, Found& result) override {
    return guarded([&] {
      const Node node = rootOf(name);
      directories_.isIn(node.volume, node.inode, node.inode);
      result = {node.bytes(), open(node.volume)->attributes(node.inode)};
    });
  }

  Failure lookup(Bytes directory, Bytes name, Found& result) override {
    return guarded([&] {
      const Node parent = Node::of(directory);
      const auto names = directoryOf(parent);
      const uint64_t inode = names->find({reinterpret_cast<const char*>(name.data), name.length});
      // What could not be looked for is not absent.
      if (inode == 0 && names->error != 0) throw Trouble(names->error, names->trouble);
      if (inode == 0) throw Trouble(ENOENT, "there is no such name");
      const Attributes attributes = open(parent.volume)->attributes(inode);
      if (!isSafe(parent, inode, attributes)) throw Trouble(EIO, "a directory that is inside of itself or in two others");
      result = {Node{parent.volume, inode}.bytes(), attributes};
    });
  }

  Failure list(Bytes directory, uint64_t position, Listing& listing) override {
    return guarded([&] {
      const Node parent = Node::of(directory);
      const auto names = directoryOf(parent);
      const Views::Lease filesystem = open(parent.volume);
      uint64_t at = position;
      for (bool isFull = false; at < names->count() && !isFull;) {
        const uint64_t end = std::min<uint64_t>(names->count(), at + kAttributesAtOnce);
        const auto attributes = attributesOf(*filesystem, parent, *names, at, end);
        for (const uint64_t first = at; at < end; at++) {
          const std::string_view name = names->name(at);
          const std::string node = Node{parent.volume, names->inode(at)}.bytes();
          isFull = !listing.entry({reinterpret_cast<const uint8_t*>(name.data()), name.size()}, bytesOf(node), attributes[at - first]);
          if (isFull) break;
        }
      }
      const bool isDone = at >= names->count();
      if (isDone && names->error == 0) return;
      // What is damaged is told in a page of its own, behind all that could be read.
      if (position >= names->count()) throw Trouble(names->error, names->trouble);
      listing.goesOn(at);
    });
  }

  Failure readLink(Bytes bytes, std::string& target) override {
    return guarded([&] {
      const Node node = Node::of(bytes);
      target = open(node.volume)->readLink(node.inode);
    });
  }

  Failure xattrs(Bytes bytes, uint32_t first, Xattrs& result) override {
    return guarded([&] {
      const Node node = Node::of(bytes);
      const auto all = open(node.volume)->xattrs(node.inode);
      for (uint32_t i = first; i < all.size(); i++) {
        if (result.xattr(bytesOf(all[i].first), bytesOf(all[i].second))) continue;
        if (i == first) throw Trouble(E2BIG, "an extended attribute that is too large");
        result.goesOn(i);
        return;
      }
    });
  }

  Failure read(Bytes bytes, uint64_t offset, uint8_t* target, size_t& length) override {
    return guarded([&] {
      const Node node = Node::of(bytes);
      length = clipped(*open(node.volume), node.inode, offset, length);
      if (length > 0) readFile(node, offset, target, length);
    });
  }

  Failure extents(Bytes bytes, uint64_t offset, uint64_t length, Extents& result) override {
    return guarded([&] {
      const Node node = Node::of(bytes);
      const Views::Lease filesystem = open(node.volume);
      length = clipped(*filesystem, node.inode, offset, length);
      std::vector<Run> runs;
      if (!filesystem->runs(node.inode, offset, length, runs)) {
        result.extent(length, ExtentKind::data);
        return;
      }
      if (runs.empty() && length > 0) throw Trouble(EIO, "its extents lead nowhere");
      for (size_t i = 0; i < runs.size();) {
        const bool isHole = runs[i].isHole;
        uint64_t joined = 0;
        for (; i < runs.size() && runs[i].isHole == isHole; i++) joined += runs[i].length;
        if (!result.extent(joined, isHole ? ExtentKind::hole : ExtentKind::data)) return;
      }
    });
  }

  Failure statfs(const std::string& name, Statfs& result) override {
    return guarded([&] { result = open(rootOf(name).volume)->statfs(); });
  }

 private:
  using Volumes = std::vector<Volume>;

  // Nothing that is thrown leaves, and the cage is closed before the first byte of a disk is looked at: by then all threads run.
  template <typename Work>
  Failure guarded(Work work) {
    std::call_once(caged_, [this] { closeCage(cage_); });
    const Computing computing;
    try {
      work();
      return {};
    } catch (const Trouble& trouble) {
      return {trouble.error, trouble.what()};
    } catch (const std::bad_alloc&) {
      return {ENOMEM, "it takes more memory than the reader may have"};
    } catch (const std::exception& error) {
      return {EIO, error.what()};
    }
  }

  std::shared_ptr<const Volumes> found() {
    std::lock_guard<std::mutex> guard(finding_);
    if (!volumes_) volumes_ = std::make_shared<Volumes>(findVolumes(blocks_));
    return volumes_;
  }

  Node rootOf(const std::string& name) {
    const auto all = found();
    for (uint32_t i = 0; i < all->size(); i++) {
      if ((*all)[i].name != name) continue;
      if ((*all)[i].state != "readable") throw Trouble(EOPNOTSUPP, (*all)[i].probed.reason);
      return {i, open(i)->root()};
    }
    throw Trouble(ENOENT, "there is no such volume");
  }

  Views::Lease open(uint32_t index) {
    const auto all = found();
    if (index >= all->size()) throw Trouble(EINVAL, "a node that was never given out");
    return views_.take(index, [&] { return openVolume((*all)[index]); });
  }

  Directories::Shared directoryOf(const Node& node) {
    return directories_.get(node.volume, node.inode, [&] { return open(node.volume)->list(node.inode); });
  }

  bool isSafe(const Node& parent, uint64_t inode, const Attributes& attributes) {
    return attributes.kind != Kind::directory || directories_.isIn(parent.volume, parent.inode, inode);
  }

  // In the order in which inodes lie on the disk: names are in another one, and each would be looked for anew.
  std::vector<Attributes> attributesOf(Filesystem& filesystem, const Node& parent, const Directory& names, uint64_t from, uint64_t to) {
    std::vector<uint64_t> order(to - from);
    std::iota(order.begin(), order.end(), from);
    std::sort(order.begin(), order.end(), [&](uint64_t a, uint64_t b) { return names.inode(a) < names.inode(b); });
    std::vector<Attributes> result(to - from);
    for (const uint64_t each : order) result[each - from] = attributesOrDamaged(filesystem, parent, names.inode(each));
    return result;
  }

  Attributes attributesOrDamaged(Filesystem& filesystem, const Node& parent, uint64_t inode) {
    try {
      const Attributes attributes = filesystem.attributes(inode);
      if (isSafe(parent, inode, attributes)) return attributes;
    } catch (const Trouble& trouble) {
      if (trouble.error == ENOMEM) throw;
    }
    return {};
  }

  static uint64_t clipped(Filesystem& filesystem, uint64_t inode, uint64_t offset, uint64_t length) {
    const Attributes attributes = filesystem.attributes(inode);
    if (attributes.kind != Kind::file) throw Trouble(attributes.kind == Kind::directory ? EISDIR : EINVAL, "not a file");
    return offset >= attributes.size ? 0 : std::min(length, attributes.size - offset);
  }

  // Who waits for a file's bytes keeps nobody from parsing.
  void readFile(const Node& node, uint64_t offset, uint8_t* target, size_t length) {
    std::vector<Run> runs;
    for (size_t done = 0; done < length;) {
      runs.clear();
      {
        const Views::Lease filesystem = open(node.volume);
        if (!filesystem->runs(node.inode, offset + done, length - done, runs)) {
          filesystem->read(node.inode, offset + done, target + done, length - done);
          return;
        }
      }
      if (runs.empty()) throw Trouble(EIO, "its extents lead nowhere");
      std::vector<Piece> pieces;
      for (const Run& run : runs) {
        if (run.isHole)
          memset(target + done, 0, run.length);
        else
          pieces.push_back({run.at, static_cast<size_t>(run.length), target + done});
        done += run.length;
      }
      checkRead((*found())[node.volume].slice.read(std::move(pieces)));
    }
  }

  Blocks& blocks_;
  const Cage cage_;
  std::once_flag caged_;
  std::mutex finding_;
  std::shared_ptr<const Volumes> volumes_;
  Directories directories_;
  Views views_;
};

std::vector<Disk> disksOf(int count, char** arguments) {
  std::vector<Disk> disks;
  for (int i = 0; i < count; i++) {
    char* name = nullptr;
    const uint64_t size = strtoull(arguments[i], &name, 10);
    if (*name != ':') _exit(64);
    disks.push_back({name + 1, size});
  }
  return disks;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 4) {
    dprintf(2, "reader MEMORY-BYTES CPU-SECONDS COMPUTE-MS SIZE:NAME...\n");
    return 64;
  }
  const Cage cage{kBlocks + 1, strtoull(arguments[1], nullptr, 10), strtoull(arguments[2], nullptr, 10)};
  const uint64_t computeMs = strtoull(arguments[3], nullptr, 10);
  Blocks blocks(kBlocks, disksOf(count - 4, arguments + 4));
  signal(SIGPIPE, SIG_IGN);
  // An arena for each thread would take 64 MiB of address space each.
  mallopt(M_ARENA_MAX, 2);
  // Before glibc gives the top of such an arena back it opens a file of /proc, and would die of it: it keeps what it has, within its bound.
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
  shedPrivileges(cage);
  // Whoever computes with local times would look for the zone's file later, and die of it.
  setenv("TZ", "UTC0", 1);
  tzset();
  std::thread([&] { blocks.receive(); }).detach();
  std::thread([computeMs] { watchRequests(computeMs); }).detach();
  Reader reader(blocks, cage);
  _exit(serve(kProtocol, reader, kThreads) == 0 ? 0 : 74);
}
