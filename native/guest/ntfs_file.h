// One file of an NTFS, as libtsk found it in the file table.
#pragma once

#include <tsk/libtsk.h>

#include <memory>
#include <string>
#include <vector>

// With what libtsk said last.
[[noreturn]] void throwTsk(const std::string& what);

class NtfsFile {
 public:
  // Throws where it is not in use or damaged.
  NtfsFile(TSK_FS_INFO* filesystem, uint64_t number);

  const TSK_FS_META& meta() const { return *file_->meta; }
  bool isDirectory() const { return meta().type == TSK_FS_META_TYPE_DIR || meta().type == TSK_FS_META_TYPE_VIRT_DIR; }

  // Null: it has none. The unnamed one has an empty name.
  const TSK_FS_ATTR* attribute(uint32_t type, const std::string& name) const;
  std::vector<const TSK_FS_ATTR*> attributes(uint32_t type) const;
  // Throws where it is larger than `most`.
  static std::vector<uint8_t> contents(const TSK_FS_ATTR* attribute, size_t most);
  static void read(const TSK_FS_ATTR* attribute, uint64_t offset, uint8_t* target, size_t length);

 private:
  struct Close {
    void operator()(TSK_FS_FILE* file) const { tsk_fs_file_close(file); }
  };
  std::unique_ptr<TSK_FS_FILE, Close> file_;
};
