#include "ntfs_file.h"

#include <cerrno>

#include "filesystem.h"

namespace {

std::string nameOf(const TSK_FS_ATTR* attribute) { return attribute->name ? attribute->name : ""; }

}  // namespace

void throwTsk(const std::string& what) {
  const uint32_t code = tsk_error_get_errno();
  const char* text = tsk_error_get();
  if (code == TSK_ERR_AUX_MALLOC) throw Trouble(ENOMEM, what + ": out of memory");
  throw Trouble(EIO, what + ": " + (text ? text : "damaged"));
}

NtfsFile::NtfsFile(TSK_FS_INFO* filesystem, uint64_t number) : file_(tsk_fs_file_open_meta(filesystem, nullptr, number)) {
  if (!file_ || !file_->meta) throwTsk("its record");
  if (!(file_->meta->flags & TSK_FS_META_FLAG_ALLOC)) throw Trouble(EIO, "its record is not in use");
}

const TSK_FS_ATTR* NtfsFile::attribute(uint32_t type, const std::string& name) const {
  for (const TSK_FS_ATTR* each : attributes(type))
    if (nameOf(each) == name) return each;
  return nullptr;
}

std::vector<const TSK_FS_ATTR*> NtfsFile::attributes(uint32_t type) const {
  const int count = tsk_fs_file_attr_getsize(file_.get());
  if (count < 0) throwTsk("its attributes");
  std::vector<const TSK_FS_ATTR*> found;
  for (int i = 0; i < count; i++) {
    const TSK_FS_ATTR* each = tsk_fs_file_attr_get_idx(file_.get(), i);
    if (each && static_cast<uint32_t>(each->type) == type) found.push_back(each);
  }
  return found;
}

std::vector<uint8_t> NtfsFile::contents(const TSK_FS_ATTR* attribute, size_t most) {
  if (attribute->size < 0 || static_cast<uint64_t>(attribute->size) > most) throw Trouble(EIO, "an attribute of absurd size");
  std::vector<uint8_t> bytes(static_cast<size_t>(attribute->size));
  read(attribute, 0, bytes.data(), bytes.size());
  return bytes;
}

void NtfsFile::read(const TSK_FS_ATTR* attribute, uint64_t offset, uint8_t* target, size_t length) {
  for (size_t done = 0; done < length;) {
    const ssize_t count = tsk_fs_attr_read(attribute, static_cast<TSK_OFF_T>(offset + done), reinterpret_cast<char*>(target) + done,
                                           length - done, TSK_FS_FILE_READ_FLAG_NONE);
    if (count <= 0) throwTsk("its contents");
    done += static_cast<size_t>(count);
  }
}
