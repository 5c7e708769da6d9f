/** Of the kernel's header linux/fuse.h, with its names and values. */

export const FUSE_KERNEL_VERSION = 7
/** Of STATX. The kernel speaks the lower of this and its own. */
export const FUSE_KERNEL_MINOR_VERSION = 39
/** Linux 5.4: large reads, cached symlinks and directories. */
export const FUSE_MINOR_MIN = 31
export const FUSE_ROOT_ID = 1

export const FUSE_LOOKUP = 1
export const FUSE_FORGET = 2
export const FUSE_GETATTR = 3
export const FUSE_SETATTR = 4
export const FUSE_READLINK = 5
export const FUSE_SYMLINK = 6
export const FUSE_MKNOD = 8
export const FUSE_MKDIR = 9
export const FUSE_UNLINK = 10
export const FUSE_RMDIR = 11
export const FUSE_RENAME = 12
export const FUSE_LINK = 13
export const FUSE_OPEN = 14
export const FUSE_READ = 15
export const FUSE_WRITE = 16
export const FUSE_STATFS = 17
export const FUSE_RELEASE = 18
export const FUSE_SETXATTR = 21
export const FUSE_GETXATTR = 22
export const FUSE_LISTXATTR = 23
export const FUSE_REMOVEXATTR = 24
export const FUSE_INIT = 26
export const FUSE_OPENDIR = 27
export const FUSE_READDIR = 28
export const FUSE_RELEASEDIR = 29
export const FUSE_CREATE = 35
export const FUSE_INTERRUPT = 36
export const FUSE_DESTROY = 38
export const FUSE_IOCTL = 39
export const FUSE_BATCH_FORGET = 42
export const FUSE_FALLOCATE = 43
export const FUSE_READDIRPLUS = 44
export const FUSE_RENAME2 = 45
export const FUSE_LSEEK = 46
export const FUSE_COPY_FILE_RANGE = 47
export const FUSE_TMPFILE = 51
export const FUSE_STATX = 52

export const FUSE_ASYNC_READ = 1 << 0
export const FUSE_AUTO_INVAL_DATA = 1 << 12
export const FUSE_DO_READDIRPLUS = 1 << 13
export const FUSE_READDIRPLUS_AUTO = 1 << 14
export const FUSE_ASYNC_DIO = 1 << 15
export const FUSE_PARALLEL_DIROPS = 1 << 18
export const FUSE_POSIX_ACL = 1 << 20
export const FUSE_MAX_PAGES = 1 << 22
export const FUSE_CACHE_SYMLINKS = 1 << 23

export const FOPEN_KEEP_CACHE = 1 << 1
export const FOPEN_CACHE_DIR = 1 << 3

export const SEEK_DATA = 3
export const SEEK_HOLE = 4

export const S_IFIFO = 0o010000
export const S_IFCHR = 0o020000
export const S_IFDIR = 0o040000
export const S_IFBLK = 0o060000
export const S_IFREG = 0o100000
export const S_IFLNK = 0o120000
export const S_IFSOCK = 0o140000

export const O_ACCMODE = 0o3
export const O_TRUNC = 0o1000

export const STATX_BASIC_STATS = 0x7ff
export const STATX_BTIME = 0x800

/** Sizes of structures that come before something of any length. */
export const IN_HEADER_BYTES = 40
export const OUT_HEADER_BYTES = 16
export const ENTRY_OUT_BYTES = 128
export const DIRENT_BYTES = 24
