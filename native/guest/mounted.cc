#include "mounted.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

namespace guest {

namespace {

constexpr uint8_t kHandle = 0, kNumber = 1, kName = 2;
constexpr size_t kXattrNamesMax = 64 * 1024;
constexpr size_t kXattrValueMax = 64 * 1024;
constexpr size_t kLinkMax = 4096;
/** getdents64 gives some 30 entries in a KiB. */
constexpr size_t kDirentBytes = 64 * 1024;

/**
 * Filesystems whose handles do not outlive the kernel's caches (FAT, FUSE), or which have none. Any other is asked.
 */
bool hasLastingHandles(uint64_t type) {
  constexpr uint64_t kFat = 0x4d44, kExfat = 0x2011bab0, kFuse = 0x65735546, kOverlay = 0x794c7630;
  return type != kFat && type != kExfat && type != kFuse && type != kOverlay;
}

Failure failure(int error, const char* what) { return {error, std::string(what) + ": " + strerror(error)}; }

struct Handle {
  Handle() { header.handle_bytes = MAX_HANDLE_SZ; }
  union {
    file_handle header;
    uint8_t space[sizeof(file_handle) + MAX_HANDLE_SZ];
  };
};

/** The path of an open file, whatever it is; a symlink that is open is not followed. */
struct ProcPath {
  explicit ProcPath(int fd) { snprintf(text, sizeof text, "/proc/self/fd/%d", fd); }
  char text[40];
};

/** Only reads, and of a full mount only what is below the directory. */
int openBelow(int directory, const char* name, int flags, Descriptor& opened) {
  open_how how{};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC | O_NOFOLLOW);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
  opened = Descriptor(static_cast<int>(syscall(SYS_openat2, directory, name, &how, sizeof how)));
  return opened.isOpen() ? 0 : errno;
}

/** The time of access stays; root may ask for that on any file, others on their own. */
int openToRead(int fd, int flags, Descriptor& opened) {
  const ProcPath path(fd);
  for (const int quietly : {O_NOATIME, 0}) {
    opened = Descriptor(open(path.text, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | flags | quietly));
    if (opened.isOpen() || errno != EPERM) break;
  }
  return opened.isOpen() ? 0 : errno;
}

Kind kindOf(uint16_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG: return Kind::file;
    case S_IFDIR: return Kind::directory;
    case S_IFLNK: return Kind::symlink;
    case S_IFIFO: return Kind::fifo;
    case S_IFSOCK: return Kind::socket;
    case S_IFCHR: return Kind::characterDevice;
    case S_IFBLK: return Kind::blockDevice;
    default: return Kind::damaged;
  }
}

int64_t timeOf(const statx_timestamp& time) { return nanoseconds(time.tv_sec, time.tv_nsec); }

Attributes attributesOf(const struct statx& stat) {
  Attributes a;
  a.kind = kindOf(stat.stx_mode);
  a.permissions = stat.stx_mode & 07777;
  a.links = stat.stx_nlink;
  a.uid = stat.stx_uid;
  a.gid = stat.stx_gid;
  a.major = stat.stx_rdev_major;
  a.minor = stat.stx_rdev_minor;
  a.inode = stat.stx_ino;
  a.size = stat.stx_size;
  a.allocated = stat.stx_blocks * 512;
  a.modified = timeOf(stat.stx_mtime);
  a.changed = timeOf(stat.stx_ctime);
  a.accessed = timeOf(stat.stx_atime);
  if (stat.stx_mask & STATX_BTIME) a.born = timeOf(stat.stx_btime);
  return a;
}

/** Inodes count within a device, and each subvolume of a Btrfs is one: those of the others are moved far away. */
uint64_t mixed(uint64_t inode, uint64_t device) {
  uint64_t bits = device + 0x9e3779b97f4a7c15;
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111eb;
  return inode ^ bits ^ (bits >> 31);
}

/** XFS tells root of an ACL once more, in bytes of its own. */
bool isTwin(const char* name) { return strncmp(name, "trusted.SGI_ACL_", 16) == 0; }

/** The small ones come along. `follow` where the path is of an open file. */
void addXattrs(const char* path, bool follow, Attributes& attributes) {
  char names[kXattrsAlong], value[kXattrsAlong];
  const ssize_t length = (follow ? listxattr : llistxattr)(path, names, sizeof names);
  if (length < 0 && errno != ENOTSUP) return;
  size_t total = 0;
  for (const char* name = names; length > 0 && name < names + length; name += strlen(name) + 1) {
    if (isTwin(name)) continue;
    const ssize_t size = (follow ? getxattr : lgetxattr)(path, name, value, sizeof value);
    total += 8 + strlen(name) + static_cast<size_t>(size < 0 ? 0 : size);
    if (size < 0 || total > kXattrsAlong) {
      attributes.xattrs.clear();
      return;
    }
    attributes.xattrs.push_back({name, {value, static_cast<size_t>(size)}});
  }
  attributes.xattrsKnown = true;
}

/** The calls for extended attributes know no directory but the thread's own, which is its own from the first time on. */
bool enter(int directory) {
  static thread_local const bool alone = unshare(CLONE_FS) == 0;
  return alone && fchdir(directory) == 0;
}

struct Dirent {
  uint64_t inode;
  int64_t next;
  uint16_t length;
  uint8_t type;
  char name[];
};

bool isDots(const char* name) { return strcmp(name, ".") == 0 || strcmp(name, "..") == 0; }

}  // namespace

Failure Mounted::open(const std::string& path) {
  root_ = Descriptor(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  struct statx stat {};
  struct statfs figures {};
  if (!root_.isOpen() || statx(root_.fd(), "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_MNT_ID, &stat) != 0 ||
      fstatfs(root_.fd(), &figures) != 0)
    return failure(errno, "the mounted volume");
  device_ = makedev(stat.stx_dev_major, stat.stx_dev_minor);
  mount_ = stat.stx_mnt_id;
  std::string node;
  uint64_t tree = 0;
  Descriptor again;
  handles_ = handles_ && hasLastingHandles(static_cast<uint64_t>(figures.f_type)) && handleNode(root_.fd(), "", node, tree) &&
             openNode(bytesOf(node), O_PATH, again) == 0;
  return {};
}

int Mounted::openNode(Bytes node, int flags, Descriptor& opened) {
  const Bytes rest{node.data + 2, node.length < 2 ? 0 : node.length - 2};
  if (rest.length < 4 || node.data[0] != id_) return ESTALE;
  uint32_t number;
  memcpy(&number, rest.data, sizeof number);
  if (node.data[1] == kHandle) {
    Handle handle;
    handle.header.handle_type = static_cast<int>(number);
    handle.header.handle_bytes = static_cast<unsigned>(rest.length - 4);
    memcpy(handle.header.f_handle, rest.data + 4, rest.length - 4);
    opened = Descriptor(open_by_handle_at(root_.fd(), &handle.header, flags | O_CLOEXEC | O_NOFOLLOW));
    return opened.isOpen() ? 0 : errno;
  }
  std::vector<std::string> names;
  if (node.data[1] > kName || !paths_.names(number, names)) return ESTALE;
  if (node.data[1] == kName) names.emplace_back(reinterpret_cast<const char*>(rest.data + 4), rest.length - 4);
  return openNames(names, flags, opened);
}

/** A path may be longer than PATH_MAX, so it is walked in pieces. */
int Mounted::openNames(const std::vector<std::string>& names, int flags, Descriptor& opened) {
  constexpr size_t kPieceMax = 3500;
  Descriptor at;
  int error = openBelow(root_.fd(), ".", O_PATH | O_DIRECTORY, at);
  std::string piece;
  for (size_t i = 0; i < names.size() && error == 0; i++) {
    piece += (piece.empty() ? "" : "/") + names[i];
    if (piece.size() < kPieceMax || i + 1 == names.size()) continue;
    Descriptor next;
    error = openBelow(at.fd(), piece.c_str(), O_PATH | O_DIRECTORY, next);
    at = std::move(next);
    piece.clear();
  }
  if (error != 0) return error;
  return openBelow(at.fd(), piece.empty() ? "." : piece.c_str(), flags, opened);
}

Failure Mounted::openFile(Bytes node, Descriptor& opened) {
  Descriptor at;
  struct stat stat {};
  int error = openNode(node, O_PATH, at);
  if (error == 0 && fstat(at.fd(), &stat) != 0) error = errno;
  // A device or a fifo would do more than give bytes when it is opened.
  if (error == 0 && !S_ISREG(stat.st_mode)) error = S_ISDIR(stat.st_mode) ? EISDIR : EINVAL;
  if (error == 0) error = openToRead(at.fd(), 0, opened);
  return error == 0 ? Failure{} : failure(error, "open");
}

bool Mounted::handleNode(int directory, const char* name, std::string& node, uint64_t& tree) {
  Handle handle;
  int mount = 0;
  if (name_to_handle_at(directory, name, &handle.header, &mount, *name == 0 ? AT_EMPTY_PATH : 0) != 0) return false;
  const size_t length = handle.header.handle_bytes;
  if (2 + 4 + length > kNodeMax) return false;
  node.assign({static_cast<char>(id_), static_cast<char>(kHandle)});
  node.append(reinterpret_cast<const char*>(&handle.header.handle_type), 4);
  node.append(reinterpret_cast<const char*>(handle.header.f_handle), length);
  // Of Btrfs: the subvolume's number, which is the same in each life of the mount, as a device's is not.
  constexpr int kBtrfs = 0x4d, kBtrfsLast = 0x4f;
  if (handle.header.handle_type >= kBtrfs && handle.header.handle_type <= kBtrfsLast && length >= 16)
    memcpy(&tree, handle.header.f_handle + 8, sizeof tree);
  return true;
}

bool Mounted::pathNode(Bytes parent, const char* name, bool isDirectory, std::string& node) {
  uint32_t number = 0;
  if (parent.length > 0) {
    if (parent.length != 6 || parent.data[1] != kNumber) return false;
    memcpy(&number, parent.data + 2, sizeof number);
  }
  const bool numbered = isDirectory || 6 + strlen(name) > kNodeMax;
  if (numbered && *name != 0) number = paths_.number(number, name);
  if (numbered && *name != 0 && number == 0) return false;
  node.assign({static_cast<char>(id_), static_cast<char>(numbered ? kNumber : kName)});
  node.append(reinterpret_cast<const char*>(&number), sizeof number);
  if (!numbered) node += name;
  return true;
}

int Mounted::find(int directory, const char* name, Bytes parent, Found& found) {
  struct statx stat {};
  const int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | (*name == 0 ? AT_EMPTY_PATH : 0);
  if (statx(directory, name, flags, STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID, &stat) != 0) return errno;
  if ((stat.stx_mask & STATX_MNT_ID) && stat.stx_mnt_id != mount_) return EXDEV;
  found.attributes = attributesOf(stat);
  const uint64_t device = makedev(stat.stx_dev_major, stat.stx_dev_minor);
  uint64_t tree = device;
  const bool made = handles_ ? handleNode(directory, name, found.node, tree)
                             : pathNode(parent, name, found.attributes.kind == Kind::directory, found.node);
  if (!made) return ENFILE;
  if (device != device_) found.attributes.inode = mixed(found.attributes.inode, tree);
  return 0;
}

Failure Mounted::root(Found& found) {
  const int error = find(root_.fd(), "", {}, found);
  if (error != 0) return failure(error, "the root");
  addXattrs(ProcPath(root_.fd()).text, true, found.attributes);
  return {};
}

Failure Mounted::lookup(Bytes directory, Bytes name, Found& found) {
  Descriptor at, opened;
  if (const int error = openNode(directory, O_PATH | O_DIRECTORY, at)) return failure(error, "the directory");
  const std::string text = name.text();
  int error = openBelow(at.fd(), text.c_str(), O_PATH, opened);
  if (error == 0) error = find(at.fd(), text.c_str(), directory, found);
  // What is mounted there is not the guest's.
  if (error == EXDEV) error = ENOENT;
  if (error != 0) return failure(error, "lookup");
  addXattrs(ProcPath(opened.fd()).text, true, found.attributes);
  return {};
}

Failure Mounted::list(Bytes directory, uint64_t position, Listing& listing) {
  Descriptor at, opened;
  int error = openNode(directory, O_PATH | O_DIRECTORY, at);
  if (error == 0) error = openToRead(at.fd(), O_DIRECTORY, opened);
  if (error == 0 && position != 0 && lseek(opened.fd(), static_cast<off_t>(position), SEEK_SET) < 0) error = errno;
  if (error != 0) return failure(error, "the directory");
  const bool entered = enter(opened.fd());
  alignas(Dirent) char bytes[kDirentBytes];
  for (;;) {
    const long got = syscall(SYS_getdents64, opened.fd(), bytes, sizeof bytes);
    if (got == 0) return {};
    if (got < 0) {
      // What was read before the damage is told; the next page says what is wrong.
      error = errno;
      if (listing.count() == 0 || position == 0) return failure(error, "the directory's entries");
      listing.goesOn(position);
      return {};
    }
    for (long offset = 0; offset < got;) {
      const auto* dirent = reinterpret_cast<const Dirent*>(bytes + offset);
      offset += dirent->length;
      const char* name = dirent->name;
      if (!isDots(name)) {
        Found found;
        error = find(opened.fd(), name, directory, found);
        if (error == ENFILE) return failure(error, "more directories than can be numbered");
        if (error == 0 && entered) addXattrs(name, false, found.attributes);
        if (error != 0) found = {};
        if (error != EXDEV && !listing.entry(bytesOf(name), bytesOf(found.node), found.attributes)) {
          if (position == 0) return {EIO, "the directory cannot be read in pieces"};
          listing.goesOn(position);
          return {};
        }
      }
      position = static_cast<uint64_t>(dirent->next);
    }
  }
}

Failure Mounted::readLink(Bytes node, std::string& target) {
  Descriptor at;
  if (const int error = openNode(node, O_PATH, at)) return failure(error, "the link");
  char text[kLinkMax];
  const ssize_t length = readlinkat(at.fd(), "", text, sizeof text);
  if (length < 0) return failure(errno, "the link");
  target.assign(text, static_cast<size_t>(length));
  return {};
}

Failure Mounted::xattrs(Bytes node, uint32_t first, Xattrs& xattrs) {
  Descriptor at;
  if (const int error = openNode(node, O_PATH, at)) return failure(error, "extended attributes");
  const ProcPath path(at.fd());
  std::string names(kXattrNamesMax, 0), value(kXattrValueMax, 0);
  const ssize_t length = listxattr(path.text, names.data(), names.size());
  if (length < 0) return errno == ENOTSUP ? Failure{} : failure(errno, "extended attributes");
  uint32_t index = 0;
  for (const char* name = names.data(); name < names.data() + length; name += strlen(name) + 1, index++) {
    if (index < first || isTwin(name)) continue;
    const ssize_t size = getxattr(path.text, name, value.data(), value.size());
    if (size < 0) return {errno, std::string("the extended attribute ") + name + ": " + strerror(errno)};
    if (xattrs.xattr({reinterpret_cast<const uint8_t*>(name), strlen(name)},
                     {reinterpret_cast<const uint8_t*>(value.data()), static_cast<size_t>(size)}))
      continue;
    xattrs.goesOn(index);
    return {};
  }
  return {};
}

Failure Mounted::read(Bytes node, uint64_t offset, uint8_t* target, size_t& length) {
  Descriptor file;
  if (Failure failure = openFile(node, file)) return failure;
  // All of it is asked of the disk at once: a read by itself waits for each piece that the kernel reads ahead.
  posix_fadvise(file.fd(), static_cast<off_t>(offset), static_cast<off_t>(length), POSIX_FADV_WILLNEED);
  size_t done = 0;
  while (done < length) {
    const ssize_t got = pread(file.fd(), target + done, length - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return failure(errno, "read");
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  length = done;
  return {};
}

Failure Mounted::extents(Bytes node, uint64_t offset, uint64_t length, Extents& extents) {
  Descriptor file;
  if (Failure failure = openFile(node, file)) return failure;
  const uint64_t end = offset + length;
  for (uint64_t at = offset; at < end;) {
    const off_t data = lseek(file.fd(), static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno != ENXIO) {
      // Where nobody knows of holes, all is data.
      if (errno != EINVAL && errno != EOPNOTSUPP) return failure(errno, "extents");
      extents.extent(end - at, ExtentKind::data);
      return {};
    }
    const uint64_t begins = data < 0 || static_cast<uint64_t>(data) > end ? end : static_cast<uint64_t>(data);
    if (!extents.extent(begins - at, ExtentKind::hole) || begins == end) return {};
    const off_t hole = lseek(file.fd(), static_cast<off_t>(begins), SEEK_HOLE);
    if (hole < 0) return failure(errno, "extents");
    const uint64_t ends = static_cast<uint64_t>(hole) > end ? end : static_cast<uint64_t>(hole);
    if (ends <= begins) return {EIO, "extents that do not go on"};
    if (!extents.extent(ends - begins, ExtentKind::data)) return {};
    at = ends;
  }
  return {};
}

Failure Mounted::statfs(Statfs& told) {
  struct statfs figures {};
  if (fstatfs(root_.fd(), &figures) != 0) return failure(errno, "statfs");
  told.blockSize = static_cast<uint32_t>(figures.f_frsize > 0 ? figures.f_frsize : figures.f_bsize);
  told.blocks = figures.f_blocks;
  told.free = figures.f_bfree;
  told.files = figures.f_files;
  return {};
}

}  // namespace guest
