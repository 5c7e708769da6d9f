#include "ntfs.h"

#include <algorithm>
#include <cerrno>
#include <list>

#include "ntfs_file.h"
#include "ntfs_index.h"
#include "ntfs_interix.h"
#include "ntfs_log.h"
#include "ntfs_reparse.h"
#include "numbers.h"
#include "tsk_image.h"

namespace {

using guest::Attributes;
using guest::Kind;

const uint32_t kStandard = 0x10, kFileName = 0x30, kVolumeName = 0x60, kVolumeInformation = 0x70, kData = 0x80, kIndexRoot = 0x90,
               kIndexAllocation = 0xa0, kBitmap = 0xb0, kReparsePoint = 0xc0;
const uint64_t kLogFile = 2, kVolume = 3, kRoot = 5;
// Below it lie the records of the filesystem itself.
const uint64_t kFirstOfUsers = 24;
// Of the attributes of DOS.
const uint32_t kSystem = 4;
const char kIndex[] = "$I30";
const size_t kSmall = 64 * 1024;
const uint64_t kIndexMax = 1ull << 30;
const size_t kFilesKept = 16;
const size_t kRunsMax = 4096;

// 100 ns since 1601.
int64_t timeOf(const uint8_t* at) {
  const uint64_t ticks = std::min<uint64_t>(u64At(at), INT64_MAX);
  const int64_t since = static_cast<int64_t>(ticks) - 116444736000000000;
  const int64_t seconds = since >= 0 ? since / 10'000'000 : -((-since + 9'999'999) / 10'000'000);
  return guest::nanoseconds(seconds, static_cast<uint32_t>((since - seconds * 10'000'000) * 100));
}

class Ntfs final : public Filesystem {
 public:
  explicit Ntfs(const Slice& slice) : slice_(slice), image_(slice_), open_(tsk_fs_open_img(image_.info(), 0, TSK_FS_TYPE_NTFS)) {
    if (!open_) throwTsk("its boot sector or file table");
  }

  uint64_t root() override { return kRoot; }

  Attributes attributes(uint64_t number) override {
    const NtfsFile& file = fileOf(number);
    Attributes result;
    result.inode = number;
    const TSK_FS_ATTR* standard = file.attribute(kStandard, "");
    if (!standard) throw Trouble(EIO, "its record has no times");
    const auto times = NtfsFile::contents(standard, kSmall);
    if (times.size() < 36) throw Trouble(EIO, "its record has no times");
    const Reparse reparse = reparseOf(file);
    const bool isLink = reparse.kind == Reparse::Kind::link;
    result.kind = isLink ? Kind::symlink : file.isDirectory() ? Kind::directory : Kind::file;
    // Who may do what stands in access control lists of Windows, whose users are not this system's.
    result.permissions = isLink ? 0777 : file.isDirectory() ? 0755 : 0644;
    result.links = file.isDirectory() ? 2 : linksOf(file);
    const TSK_FS_ATTR* data = file.attribute(kData, "");
    if (isLink) {
      result.size = reparse.target.size();
    } else if (!file.isDirectory() && data) {
      if (data->size < 0 || data->size >= 1ll << 53) throw Trouble(EIO, "its size is absurd");
      result.size = static_cast<uint64_t>(data->size);
      result.allocated = allocatedOf(*data);
    }
    result.born = timeOf(&times[0]);
    result.modified = timeOf(&times[8]);
    result.changed = timeOf(&times[16]);
    result.accessed = timeOf(&times[24]);
    const Interix special = result.kind == Kind::file ? interixOf(file, u32At(&times[32])) : Interix();
    if (special.kind != Kind::file) {
      result.kind = special.kind;
      result.size = special.target.size();
      if (special.kind == Kind::symlink) result.permissions = 0777;
      result.major = special.major;
      result.minor = special.minor;
    }
    const auto named = streams(file);
    result.xattrsKnown = std::all_of(named.begin(), named.end(), isUnnamed);
    return result;
  }

  std::shared_ptr<Directory> list(uint64_t number) override {
    const NtfsFile& file = fileOf(number);
    if (!file.isDirectory()) throw Trouble(ENOTDIR, "not a directory");
    auto directory = std::make_shared<Directory>();
    size_t tooLong = 0;
    const TakeName take = [&](const NtfsName& name) {
      if (name.record < kFirstOfUsers) return;
      const std::string text = utf8Of(name.units, name.count);
      if (text.size() > guest::kNameMax)
        tooLong++;
      else
        directory->add(text, name.record);
    };
    const bool isWhole = readIndex(file, take);
    if (tooLong > 0) {
      directory->error = ENAMETOOLONG;
      directory->trouble = std::to_string(tooLong) + " names are longer than Linux allows (255 bytes) and are left out";
    }
    if (!isWhole) {
      directory->error = EIO;
      directory->trouble = "a part of the directory's index is damaged";
    }
    return directory;
  }

  std::string readLink(uint64_t number) override {
    const NtfsFile& file = fileOf(number);
    const Reparse reparse = reparseOf(file);
    if (reparse.kind == Reparse::Kind::link) return reparse.target;
    const Interix special = interixOf(file, kSystem);
    if (special.kind != Kind::symlink) throw Trouble(EINVAL, "not a symbolic link");
    return special.target;
  }

  // Named streams. The large ones are named in an attribute of ours, so that nobody takes what is there for all.
  std::vector<NamedValue> xattrs(uint64_t number) override {
    const NtfsFile& file = fileOf(number);
    std::vector<NamedValue> result;
    std::string leftOut;
    for (const TSK_FS_ATTR* stream : streams(file)) {
      if (isUnnamed(stream)) continue;
      const std::string name = stream->name;
      if (static_cast<uint64_t>(stream->size) <= kSmall && name.size() + 5 <= guest::kNameMax) {
        const auto bytes = NtfsFile::contents(stream, kSmall);
        result.emplace_back("user." + name, std::string(bytes.begin(), bytes.end()));
      } else {
        leftOut += name + " (" + std::to_string(stream->size) + " bytes)\n";
      }
    }
    if (!leftOut.empty()) result.emplace_back("user.lifeboat.streams-left-out", leftOut);
    return result;
  }

  bool runs(uint64_t number, uint64_t offset, uint64_t length, std::vector<Run>& result) override {
    const TSK_FS_ATTR& data = readable(number);
    if (!(data.flags & TSK_FS_ATTR_NONRES) || (data.flags & TSK_FS_ATTR_COMP)) return false;
    const uint64_t end = offset + length;
    const uint64_t written = std::clamp(static_cast<uint64_t>(std::max<TSK_OFF_T>(data.nrd.initsize, 0)), offset, end);
    const uint64_t cluster = open_->block_size;
    uint64_t at = offset;
    for (const TSK_FS_ATTR_RUN* run = data.nrd.run; run && at < written && result.size() < kRunsMax; run = run->next) {
      const uint64_t start = run->offset * cluster, stop = start + run->len * cluster;
      if (stop <= at) continue;
      // libtsk puts these where parts of the list are missing.
      if (start > at || run->flags & TSK_FS_ATTR_RUN_FLAG_FILLER) throw Trouble(EIO, "a part of its list of clusters is missing");
      const uint64_t to = std::min(stop, written);
      const bool isHole = run->flags & TSK_FS_ATTR_RUN_FLAG_SPARSE;
      result.push_back({to - at, isHole, isHole ? 0 : run->addr * cluster + (at - start)});
      at = to;
    }
    if (at == written && at < end) result.push_back({end - at, true, 0});
    return true;
  }

  void read(uint64_t number, uint64_t offset, uint8_t* target, size_t length) override {
    NtfsFile::read(&readable(number), offset, target, length);
  }

  guest::Statfs statfs() override { return {open_->block_size, open_->block_count, 0, open_->inum_count}; }

  std::string label() override {
    const TSK_FS_ATTR* name = fileOf(kVolume).attribute(kVolumeName, "");
    if (!name) return {};
    const auto units = NtfsFile::contents(name, kSmall);
    return utf8Of(units.data(), units.size() / 2);
  }

  std::string unclean() override {
    const TSK_FS_ATTR* information = fileOf(kVolume).attribute(kVolumeInformation, "");
    const auto bytes = information ? NtfsFile::contents(information, kSmall) : std::vector<uint8_t>();
    if (bytes.size() < 12 || u16At(&bytes[10]) & 1) return "it is marked as to be checked";
    const TSK_FS_ATTR* log = fileOf(kLogFile).attribute(kData, "");
    if (!log || log->size < 16384) return "its log is damaged";
    std::vector<uint8_t> head(16384);
    NtfsFile::read(log, 0, head.data(), head.size());
    return isLogClean(std::move(head)) ? "" : "its log has to be replayed";
  }

 private:
  struct Kept {
    uint64_t number;
    NtfsFile file;
  };

  struct Close {
    void operator()(TSK_FS_INFO* info) const { tsk_fs_close(info); }
  };

  const NtfsFile& fileOf(uint64_t number) {
    for (auto at = kept_.begin(); at != kept_.end(); ++at) {
      if (at->number != number) continue;
      kept_.splice(kept_.begin(), kept_, at);
      return kept_.front().file;
    }
    // The last one is libtsk's own: a folder of files that were deleted.
    if (number >= open_->last_inum) throw Trouble(EIO, "there is no such record");
    kept_.push_front({number, NtfsFile(open_.get(), number)});
    if (kept_.size() > kFilesKept) kept_.pop_back();
    return kept_.front().file;
  }

  static bool isUnnamed(const TSK_FS_ATTR* attribute) { return !attribute->name || !*attribute->name; }
  static std::vector<const TSK_FS_ATTR*> streams(const NtfsFile& file) { return file.attributes(kData); }

  static Reparse reparseOf(const NtfsFile& file) {
    const TSK_FS_ATTR* point = file.attribute(kReparsePoint, "");
    return point ? parseReparse(NtfsFile::contents(point, kSmall)) : Reparse();
  }

  static Interix interixOf(const NtfsFile& file, uint32_t flags) {
    const TSK_FS_ATTR* data = flags & kSystem ? file.attribute(kData, "") : nullptr;
    if (!data || data->size < 0 || static_cast<uint64_t>(data->size) > kInterixMax) return {};
    return parseInterix(NtfsFile::contents(data, kInterixMax));
  }

  // Names of DOS are second names of the same link.
  static uint32_t linksOf(const NtfsFile& file) {
    uint32_t links = 0;
    for (const TSK_FS_ATTR* name : file.attributes(kFileName)) {
      const auto bytes = NtfsFile::contents(name, kSmall);
      links += bytes.size() >= 66 && bytes[65] != 2;
    }
    return std::max(links, 1u);
  }

  uint64_t allocatedOf(const TSK_FS_ATTR& data) const {
    if (!(data.flags & TSK_FS_ATTR_NONRES)) return 0;
    uint64_t clusters = 0;
    for (const TSK_FS_ATTR_RUN* run = data.nrd.run; run; run = run->next)
      if (!(run->flags & (TSK_FS_ATTR_RUN_FLAG_SPARSE | TSK_FS_ATTR_RUN_FLAG_FILLER))) clusters += run->len;
    return std::min<uint64_t>(clusters, open_->block_count) * open_->block_size;
  }

  const TSK_FS_ATTR& readable(uint64_t number) {
    const NtfsFile& file = fileOf(number);
    const Reparse reparse = reparseOf(file);
    if (reparse.kind == Reparse::Kind::elsewhere)
      throw Trouble(EOPNOTSUPP, reparse.reason + " and is read by the guest's own system alone: boot the point and copy it there");
    const TSK_FS_ATTR* data = file.attribute(kData, "");
    if (!data) throw Trouble(EIO, "it has no contents");
    if (data->flags & TSK_FS_ATTR_ENC)
      throw Trouble(ENOKEY, "it is encrypted (EFS) with a key that only the guest has: boot the point and copy it there");
    return *data;
  }

  // False: damaged.
  static bool readIndex(const NtfsFile& file, const TakeName& take) {
    const TSK_FS_ATTR* root = file.attribute(kIndexRoot, kIndex);
    uint32_t blockBytes = 0;
    if (!root || !readIndexRoot(NtfsFile::contents(root, kSmall), blockBytes, take)) return false;
    const TSK_FS_ATTR* blocks = file.attribute(kIndexAllocation, kIndex);
    if (!blocks) return true;
    const TSK_FS_ATTR* map = file.attribute(kBitmap, kIndex);
    if (!map || blockBytes < 512 || blockBytes > kSmall || blocks->size < 0 || static_cast<uint64_t>(blocks->size) > kIndexMax) return false;
    const auto used = NtfsFile::contents(map, kIndexMax / 512 / 8);
    const uint64_t count = std::min<uint64_t>(static_cast<uint64_t>(blocks->size) / blockBytes, used.size() * 8);
    bool isWhole = true;
    std::vector<uint8_t> block(blockBytes);
    for (uint64_t i = 0; i < count; i++) {
      if (!(used[i / 8] & 1 << i % 8)) continue;
      NtfsFile::read(blocks, i * blockBytes, block.data(), blockBytes);
      isWhole = readIndexBlock(block.data(), blockBytes, take) && isWhole;
    }
    return isWhole;
  }

  const Slice slice_;
  TskImage image_;
  std::unique_ptr<TSK_FS_INFO, Close> open_;
  std::list<Kept> kept_;
};

}  // namespace

std::unique_ptr<Filesystem> openNtfs(const Slice& slice) { return std::make_unique<Ntfs>(slice); }
