#include "ext.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>


#include "ext_channel.h"
#include "ext_runs.h"
#include "numbers.h"

namespace {

using guest::Attributes;
using guest::Kind;

// PATH_MAX, and the largest file that ext4 can have rounded up: what is more is damage.
const uint64_t kLinkMax = 4096;
const uint64_t kSizeMax = (1ull << 53) - 1;

// One allocation of libext2fs, which is C.
struct Freed {
  void operator()(void* memory) const { free(memory); }
};

void check(errcode_t error, const char* what) {
  if (error == 0) return;
  if (error == EXT2_ET_NO_MEMORY) throw Trouble(ENOMEM, std::string(what) + ": out of memory");
  if (error < 256) throw Trouble(EIO, std::string(what) + ": the disk could not be read: " + strerror(static_cast<int>(error)));
  throw Trouble(EIO, std::string(what) + ": " + error_message(error));
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

// Two bits of the second word widen the seconds, thirty are nanoseconds. An inode of 128 bytes has no second word.
int64_t timeOf(uint32_t seconds, uint32_t extra) {
  const int64_t wide = static_cast<int32_t>(seconds) + (static_cast<int64_t>(extra & 3) << 32);
  const uint32_t nanos = extra >> 2;
  return guest::nanoseconds(wide, nanos < 1'000'000'000 ? nanos : 0);
}

// The old encoding has eight bits each, the new one twelve and twenty.
void setDevice(Attributes& attributes, const ext2_inode& inode) {
  if (const uint32_t old = inode.i_block[0]) {
    attributes.major = (old >> 8) & 0xff;
    attributes.minor = old & 0xff;
    return;
  }
  const uint32_t device = inode.i_block[1];
  attributes.major = (device & 0xfff00) >> 8;
  attributes.minor = (device & 0xff) | ((device >> 12) & 0xfff00);
}

struct Listed {
  Directory& directory;
  ext2_filsys fs;
  std::exception_ptr thrown;
};

int takeEntry(ext2_ino_t, int, ext2_dir_entry* entry, int, int, char*, void* data) {
  auto& listed = *static_cast<Listed*>(data);
  const std::string_view name(entry->name, static_cast<size_t>(ext2fs_dirent_name_len(entry)));
  if (entry->inode == 0 || name == "." || name == "..") return 0;
  try {
    listed.directory.add(name, entry->inode);
  } catch (...) {
    // Not through C.
    listed.thrown = std::current_exception();
    return DIRENT_ABORT;
  }
  return 0;
}

struct Names {
  std::vector<std::string> all;
};

int takeName(char* name, char*, size_t, void* data) {
  try {
    static_cast<Names*>(data)->all.emplace_back(name);
  } catch (...) {
    return XATTR_ABORT;
  }
  return 0;
}

// The rest is how ext4 stores other things: inline data, the context of an encrypted folder.
bool isXattr(const std::string& name) {
  for (const char* prefix : {"user.", "trusted.", "security."})
    if (name.rfind(prefix, 0) == 0) return true;
  return name == "system.posix_acl_access" || name == "system.posix_acl_default" || name == "system.richacl";
}

// libext2fs gives the entries of an access control list that name nobody the number 0; getxattr(2) says that they have none.
void asTheKernel(std::string& list) {
  for (size_t at = 4; at + 8 <= list.size(); at += 8) {
    const uint16_t tag = u16At(&list[at]);
    if (tag != 2 && tag != 8) list.replace(at + 4, 4, 4, '\xff');
  }
}

class Ext final : public Filesystem {
 public:
  explicit Ext(const Slice& slice) : slice_(slice) {
    openNext(slice_);
    check(ext2fs_open2("slice", nullptr, EXT2_FLAG_64BITS, 0, 0, sliceManager(), &fs_), "the superblock");
  }

  ~Ext() override { ext2fs_close_free(&fs_); }

  uint64_t root() override { return EXT2_ROOT_INO; }

  Attributes attributes(uint64_t number) override {
    const ext2_inode_large inode = readInode(number);
    const ext2_inode& small = reinterpret_cast<const ext2_inode&>(inode);
    Attributes result;
    result.kind = kindOf(inode.i_mode);
    if (result.kind == Kind::damaged || inode.i_links_count == 0) throw Trouble(EIO, "its inode is not in use");
    result.permissions = inode.i_mode & 07777;
    result.links = inode.i_links_count;
    result.uid = inode_uid(small);
    result.gid = inode_gid(small);
    result.inode = number;
    result.size = result.kind == Kind::file || result.kind == Kind::directory ? EXT2_I_SIZE(&small) : small.i_size;
    if (result.size > kSizeMax) throw Trouble(EIO, "its size is absurd");
    if (result.kind == Kind::characterDevice || result.kind == Kind::blockDevice) {
      setDevice(result, small);
      result.size = 0;
    }
    const uint64_t sectors = ext2fs_get_stat_i_blocks(fs_, const_cast<ext2_inode*>(&small));
    result.allocated = std::min(sectors, slice_.size() / 512) * 512;
    const bool isLarge = EXT2_INODE_SIZE(fs_->super) > EXT2_GOOD_OLD_INODE_SIZE;
    const size_t extra = isLarge ? inode.i_extra_isize : 0;
    const auto has = [extra](size_t end) { return EXT2_GOOD_OLD_INODE_SIZE + extra >= end; };
    result.changed = timeOf(inode.i_ctime, has(offsetof(ext2_inode_large, i_mtime_extra)) ? inode.i_ctime_extra : 0);
    result.modified = timeOf(inode.i_mtime, has(offsetof(ext2_inode_large, i_atime_extra)) ? inode.i_mtime_extra : 0);
    result.accessed = timeOf(inode.i_atime, has(offsetof(ext2_inode_large, i_crtime)) ? inode.i_atime_extra : 0);
    if (has(offsetof(ext2_inode_large, i_version_hi))) result.born = timeOf(inode.i_crtime, inode.i_crtime_extra);
    addXattrs(number, inode, result);
    return result;
  }

  std::shared_ptr<Directory> list(uint64_t number) override {
    const ext2_inode_large inode = readInode(number);
    if (!LINUX_S_ISDIR(inode.i_mode)) throw Trouble(ENOTDIR, "not a directory");
    refuseEncrypted(inode);
    auto directory = std::make_shared<Directory>();
    Listed listed{*directory, fs_, nullptr};
    const errcode_t error = ext2fs_dir_iterate2(fs_, static_cast<ext2_ino_t>(number), 0, nullptr, takeEntry, &listed);
    if (listed.thrown) std::rethrow_exception(listed.thrown);
    if (error != 0) {
      directory->error = EIO;
      directory->trouble = std::string("a part of the directory cannot be read: ") + error_message(error);
    }
    return directory;
  }

  std::string readLink(uint64_t number) override {
    ext2_inode_large inode = readInode(number);
    ext2_inode& small = reinterpret_cast<ext2_inode&>(inode);
    if (!LINUX_S_ISLNK(inode.i_mode)) throw Trouble(EINVAL, "not a symbolic link");
    refuseEncrypted(inode);
    if (small.i_size > kLinkMax) throw Trouble(EIO, "a symbolic link that is too long");
    std::string target(small.i_size, '\0');
    if (inode.i_flags & EXT4_INLINE_DATA_FL)
      readInline(number, inode, 0, reinterpret_cast<uint8_t*>(&target[0]), target.size());
    else if (ext2fs_is_fast_symlink(&small) && target.size() <= sizeof small.i_block)
      target.assign(reinterpret_cast<const char*>(small.i_block), target.size());
    else
      readMapped(number, small, reinterpret_cast<uint8_t*>(&target[0]), target.size());
    return target.substr(0, target.find('\0'));
  }

  std::vector<NamedValue> xattrs(uint64_t number) override {
    readInode(number);
    ext2_xattr_handle* opened = nullptr;
    check(ext2fs_xattrs_open(fs_, static_cast<ext2_ino_t>(number), &opened), "its extended attributes");
    const std::unique_ptr<ext2_xattr_handle, void (*)(ext2_xattr_handle*)> handle(
        opened, [](ext2_xattr_handle* open) { ext2fs_xattrs_close(&open); });
    check(ext2fs_xattrs_read(handle.get()), "its extended attributes");
    Names names;
    check(ext2fs_xattrs_iterate(handle.get(), takeName, &names), "its extended attributes");
    std::vector<NamedValue> result;
    for (const std::string& name : names.all) {
      if (!isXattr(name)) continue;
      void* value = nullptr;
      size_t length = 0;
      // An access control list comes as getxattr(2) gives it, not as it is stored.
      check(ext2fs_xattr_get(handle.get(), name.c_str(), &value, &length), name.c_str());
      const std::unique_ptr<void, Freed> freed(value);
      result.emplace_back(name, std::string(static_cast<const char*>(value), length));
      if (name.rfind("system.posix_acl", 0) == 0) asTheKernel(result.back().second);
    }
    return result;
  }

  bool runs(uint64_t number, uint64_t offset, uint64_t length, std::vector<Run>& result) override {
    ext2_inode_large inode = readInode(number);
    refuseEncrypted(inode);
    if (inode.i_flags & EXT4_INLINE_DATA_FL) return false;
    check(extRuns(fs_, static_cast<ext2_ino_t>(number), reinterpret_cast<ext2_inode&>(inode), offset, length, result), "its extents");
    return true;
  }

  void read(uint64_t number, uint64_t offset, uint8_t* target, size_t length) override {
    readInline(number, readInode(number), offset, target, length);
  }

  guest::Statfs statfs() override {
    return {fs_->blocksize, ext2fs_blocks_count(fs_->super), ext2fs_free_blocks_count(fs_->super), fs_->super->s_inodes_count};
  }

 private:
  ext2_inode_large readInode(uint64_t number) {
    if (number < EXT2_ROOT_INO || number > fs_->super->s_inodes_count) throw Trouble(EIO, "there is no such inode");
    ext2_inode_large inode;
    memset(&inode, 0, sizeof inode);
    check(ext2fs_read_inode_full(fs_, static_cast<ext2_ino_t>(number), reinterpret_cast<ext2_inode*>(&inode), sizeof inode), "its inode");
    return inode;
  }

  // Most files have none, which the inode says; those that lie in the inode cost nothing to read.
  void addXattrs(uint64_t number, const ext2_inode_large& inode, Attributes& result) {
    try {
      if (hasXattrs(number, inode))
        for (NamedValue& each : xattrs(number)) result.xattrs.push_back({std::move(each.first), std::move(each.second)});
      result.xattrsKnown = true;
    } catch (const Trouble&) {
      // Whoever asks for them is told.
      result.xattrs.clear();
    }
  }

  bool hasXattrs(uint64_t number, const ext2_inode_large& inode) {
    if (ext2fs_file_acl_block(fs_, reinterpret_cast<const ext2_inode*>(&inode)) != 0) return true;
    const size_t size = static_cast<size_t>(EXT2_INODE_SIZE(fs_->super));
    const size_t at = EXT2_GOOD_OLD_INODE_SIZE + inode.i_extra_isize;
    if (size <= EXT2_GOOD_OLD_INODE_SIZE || at + 4 > size) return false;
    std::vector<uint8_t> whole(size);
    check(ext2fs_read_inode_full(fs_, static_cast<ext2_ino_t>(number), reinterpret_cast<ext2_inode*>(whole.data()),
                                 static_cast<int>(size)),
          "its inode");
    return u32At(&whole[at]) == EXT2_EXT_ATTR_MAGIC;
  }

  static void refuseEncrypted(const ext2_inode_large& inode) {
    if (inode.i_flags & EXT4_ENCRYPT_FL)
      throw Trouble(ENOKEY, "it is encrypted (fscrypt) with a key that only the guest has: boot the point and copy it there");
  }

  void readInline(uint64_t number, ext2_inode_large inode, uint64_t offset, uint8_t* target, size_t length) {
    // As large as a block at the most.
    std::vector<uint8_t> all(fs_->blocksize + sizeof inode.i_block);
    size_t size = all.size();
    check(ext2fs_inline_data_get(fs_, static_cast<ext2_ino_t>(number), reinterpret_cast<ext2_inode*>(&inode), all.data(), &size),
          "its inline data");
    for (size_t i = 0; i < length; i++) target[i] = offset + i < size && offset + i < all.size() ? all[offset + i] : 0;
  }

  void readMapped(uint64_t number, ext2_inode& inode, uint8_t* target, size_t length) {
    std::vector<Run> found;
    check(extRuns(fs_, static_cast<ext2_ino_t>(number), inode, 0, length, found), "its extents");
    for (const Run& run : found) {
      if (!run.isHole) checkRead(slice_.read(run.at, target, run.length));
      target += run.length;
    }
  }

  const Slice slice_;
  ext2_filsys fs_ = nullptr;
};

}  // namespace

std::unique_ptr<Filesystem> openExt(const Slice& slice) { return std::make_unique<Ext>(slice); }
