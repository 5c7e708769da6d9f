#include "ext_channel.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <limits>

namespace {

thread_local const Slice* next = nullptr;

errcode_t openChannel(const char* name, int, io_channel* channel);

errcode_t closeChannel(io_channel channel) {
  if (--channel->refcount > 0) return 0;
  free(channel->name);
  free(channel);
  return 0;
}

errcode_t setBlockSize(io_channel channel, int size) {
  channel->block_size = size;
  return 0;
}

// A negative count is one of bytes.
errcode_t readBlocks(io_channel channel, unsigned long long block, int count, void* target) {
  const Slice& slice = *static_cast<const Slice*>(channel->private_data);
  const uint64_t blockSize = static_cast<uint64_t>(channel->block_size);
  if (block > std::numeric_limits<int64_t>::max() / blockSize) return EXT2_ET_SHORT_READ;
  const size_t length = count < 0 ? static_cast<size_t>(-static_cast<int64_t>(count)) : static_cast<size_t>(count) * blockSize;
  const int error = slice.read(block * blockSize, target, length);
  if (error == EINVAL) return EXT2_ET_SHORT_READ;
  return error;
}

errcode_t readBlocks32(io_channel channel, unsigned long block, int count, void* target) {
  return readBlocks(channel, block, count, target);
}

errcode_t refuse(io_channel, unsigned long, int, const void*) { return EROFS; }
errcode_t refuse64(io_channel, unsigned long long, int, const void*) { return EROFS; }
errcode_t flush(io_channel) { return 0; }

struct_io_manager makeManager() {
  struct_io_manager manager;
  memset(&manager, 0, sizeof manager);
  manager.magic = EXT2_ET_MAGIC_IO_MANAGER;
  manager.name = "slice";
  manager.open = openChannel;
  manager.close = closeChannel;
  manager.set_blksize = setBlockSize;
  manager.read_blk = readBlocks32;
  manager.read_blk64 = readBlocks;
  manager.write_blk = refuse;
  manager.write_blk64 = refuse64;
  manager.flush = flush;
  return manager;
}

struct_io_manager manager = makeManager();

errcode_t openChannel(const char* name, int, io_channel* result) {
  const auto channel = static_cast<io_channel>(calloc(1, sizeof(struct_io_channel)));
  if (!channel) return EXT2_ET_NO_MEMORY;
  channel->magic = EXT2_ET_MAGIC_IO_CHANNEL;
  channel->manager = &manager;
  channel->name = strdup(name);
  channel->block_size = 1024;
  channel->refcount = 1;
  channel->private_data = const_cast<Slice*>(next);
  *result = channel;
  return 0;
}

}  // namespace

void openNext(const Slice& slice) { next = &slice; }
io_manager sliceManager() { return &manager; }
