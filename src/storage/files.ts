/**
 * The file operations that the directory store stands on. Everything that it does to a disk goes through here, so that a
 * layer that loses power, fills the disk or fails a sync can be put beneath it. Errors are Node's own, with `code`.
 */
import { constants, type Dirent, type Stats } from 'node:fs'
import * as fs from 'node:fs/promises'

export type FileKind = 'file' | 'folder' | 'other'

export interface FileStatus {
  readonly kind: FileKind
  readonly size: number
  readonly modifiedAt: Date
  readonly inode: number
}

export interface FolderEntry {
  readonly name: string
  /** 'unknown' where the filesystem does not say without asking for the file itself. */
  readonly kind: FileKind | 'unknown'
}

export interface OpenFile {
  status(): Promise<FileStatus>
  /** Reads into the whole of `target` from `position`; fewer bytes only at the end of the file. */
  readAt(target: Uint8Array, position: number): Promise<number>
  /** Writes all of `parts` one after the other at the file's current end. */
  append(parts: readonly Uint8Array[]): Promise<void>
  sync(): Promise<void>
  close(): Promise<void>
}

export interface Files {
  /** Does not follow a link at the last part and does not wait for the other end of a pipe. */
  openForReading(path: string): Promise<OpenFile>
  /** EEXIST where there is one. */
  createForWriting(path: string, mode: number): Promise<OpenFile>
  rename(from: string, to: string): Promise<void>
  link(existing: string, name: string): Promise<void>
  unlink(path: string): Promise<void>
  makeFolder(path: string, mode: number): Promise<void>
  /** Makes the names in a folder durable. */
  syncFolder(path: string): Promise<void>
  /** Follows links. */
  status(path: string): Promise<FileStatus>
  /** Does not follow links. */
  linkStatus(path: string): Promise<FileStatus>
  entries(path: string): AsyncIterable<FolderEntry>
}

export const nodeFiles: Files = {
  openForReading: async path =>
    openFile(await fs.open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)),
  createForWriting: async (path, mode) =>
    openFile(await fs.open(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, mode)),
  rename: fs.rename,
  link: fs.link,
  unlink: fs.unlink,
  makeFolder: (path, mode) => fs.mkdir(path, { mode }).then(() => undefined),
  syncFolder: async path => {
    const folder = await fs.open(path, constants.O_RDONLY | constants.O_DIRECTORY)
    try {
      await folder.sync()
    } finally {
      await folder.close()
    }
  },
  status: async path => fileStatus(await fs.stat(path)),
  linkStatus: async path => fileStatus(await fs.lstat(path)),
  entries: async function* (path) {
    for await (const entry of await fs.opendir(path, { bufferSize: 1024 })) {
      yield { name: entry.name, kind: entryKind(entry) }
    }
  },
}

function openFile(handle: fs.FileHandle): OpenFile {
  return {
    status: async () => fileStatus(await handle.stat()),
    readAt: async (target, position) => {
      let done = 0
      while (done < target.length) {
        const { bytesRead } = await handle.read(target, done, target.length - done, position + done)
        if (bytesRead === 0) break
        done += bytesRead
      }
      return done
    },
    append: async parts => {
      let rest = parts.filter(part => part.length > 0)
      while (rest.length > 0) {
        const { bytesWritten } = await handle.writev(rest)
        rest = withoutFirst(rest, bytesWritten)
      }
    },
    sync: () => handle.sync(),
    close: () => handle.close(),
  }
}

/** What remains after a write that took only the first `count` bytes, as happens just before a disk is full. */
function withoutFirst(parts: readonly Uint8Array[], count: number): Uint8Array[] {
  let index = 0
  let left = count
  for (; index < parts.length && left >= parts[index]!.length; index++) left -= parts[index]!.length
  const rest = parts.slice(index)
  if (left > 0) rest[0] = rest[0]!.subarray(left)
  return rest
}

const fileStatus = (stats: Stats): FileStatus => ({
  kind: stats.isFile() ? 'file' : stats.isDirectory() ? 'folder' : 'other',
  size: stats.size,
  modifiedAt: stats.mtime,
  inode: stats.ino,
})

function entryKind(entry: Dirent): FileKind | 'unknown' {
  if (entry.isFile()) return 'file'
  if (entry.isDirectory()) return 'folder'
  const isOther =
    entry.isSymbolicLink() || entry.isFIFO() || entry.isSocket() || entry.isCharacterDevice() || entry.isBlockDevice()
  return isOther ? 'other' : 'unknown'
}
