/**
 * The file operations that the disk cache stands on, so that a layer that fills the disk, loses power or fails can be put
 * beneath it. Errors are Node's own, with `code`.
 */
import { constants } from 'node:fs'
import * as fs from 'node:fs/promises'

export interface SegmentStatus {
  readonly size: number
  readonly modifiedMs: number
  /** Names that the file still has; 0 when somebody has removed it. */
  readonly links: number
}

export interface SegmentFile {
  /** Fewer bytes than asked for only at the end of the file. */
  readAt(target: Uint8Array, position: number): Promise<number>
  /** All of `bytes`. */
  writeAt(bytes: Uint8Array, position: number): Promise<void>
  status(): Promise<SegmentStatus>
  close(): Promise<void>
}

export interface CacheFiles {
  /** Makes the folder, and throws unless it is this user's own and nobody else can write to it. */
  ownFolder(path: string): Promise<void>
  names(folder: string): Promise<readonly string[]>
  status(path: string): Promise<SegmentStatus>
  /** A new file of `size` bytes, all of them a hole. */
  create(path: string, size: number): Promise<SegmentFile>
  open(path: string): Promise<SegmentFile>
  touch(path: string, at: Date): Promise<void>
  unlink(path: string): Promise<void>
  space(folder: string): Promise<{ readonly freeBytes: number; readonly totalBytes: number }>
}

export const nodeCacheFiles: CacheFiles = {
  async ownFolder(path) {
    await fs.mkdir(path, { recursive: true, mode: 0o700 })
    const { uid, mode } = await fs.stat(path)
    if (uid !== process.getuid?.() || (mode & 0o022) !== 0)
      throw new Error(`${path} belongs to somebody else, or others may write to it`)
  },
  names: folder => fs.readdir(folder),
  async status(path) {
    const { size, mtimeMs, nlink } = await fs.lstat(path)
    return { size, modifiedMs: mtimeMs, links: nlink }
  },
  async create(path, size) {
    const handle = await fs.open(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600)
    try {
      await handle.truncate(size)
    } catch (error) {
      await handle.close()
      throw error
    }
    return segmentFile(handle)
  },
  open: async path =>
    segmentFile(await fs.open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)),
  touch: (path, at) => fs.utimes(path, at, at),
  unlink: fs.unlink,
  async space(folder) {
    const { bsize, bavail, blocks } = await fs.statfs(folder)
    return { freeBytes: bsize * bavail, totalBytes: bsize * blocks }
  },
}

const segmentFile = (handle: fs.FileHandle): SegmentFile => ({
  async readAt(target, position) {
    let done = 0
    while (done < target.length) {
      const { bytesRead } = await handle.read(target, done, target.length - done, position + done)
      if (bytesRead === 0) break
      done += bytesRead
    }
    return done
  },
  async writeAt(bytes, position) {
    for (let done = 0; done < bytes.length; )
      done += (await handle.write(bytes, done, bytes.length - done, position + done)).bytesWritten
  },
  async status() {
    const { size, mtimeMs, nlink } = await handle.stat()
    return { size, modifiedMs: mtimeMs, links: nlink }
  },
  close: () => handle.close(),
})
