/**
 * The file operations that the overlay stands on. Everything that it does to a disk goes through here, so that a layer that
 * loses power, fills the disk or fails a sync can be put beneath it. Errors are Node's own, with `code`.
 */
import * as fs from 'node:fs/promises'
import { constants } from 'node:os'
import { getSystemErrorName } from 'node:util'
import { loadAddon } from '../native/native.ts'
import { allocate, punchHole } from '../native/sparse-file.ts'
import { overlayDamaged } from './overlay-format.ts'

/** Blocks on their way into one file, and the record that names them, which goes to another one behind them. */
export interface BlockBatch {
  /** Whole blocks of 4 KiB. */
  readonly parts: readonly Uint8Array[]
  /** One for each part. */
  readonly positions: Float64Array
  /** Receives the low half of XXH3-64 of each block; mostly a view into `record`. */
  readonly checks: Uint32Array
  readonly log: OverlayFile
  /** Its first 8 bytes receive the XXH3-64 of the others. */
  readonly record: Uint8Array
  readonly recordPosition: number
}

export interface OverlayFile {
  /** Of the operating system; -1 where there is none. */
  readonly fd: number
  size(): Promise<number>
  /** Fewer bytes than `target` has only at the end of the file. */
  readAt(target: Uint8Array, position: number): Promise<number>
  writeAt(bytes: Uint8Array, position: number): Promise<void>
  /** Fills `parts`; gives the checks of what was read. Throws 'overlay-damaged' where the file ends too early. */
  readBlocks(parts: readonly Uint8Array[], positions: Float64Array, checks: Uint32Array): Promise<void>
  /** The record is written when all blocks are. With `now` it is done before the call returns, and undefined is given. */
  writeBlocks(batch: BlockBatch, now: boolean): Promise<void> | undefined
  truncate(size: number): Promise<void>
  /** Makes sure of space; the size stays. False where the filesystem cannot. Throws 'disk-full'. */
  reserve(offset: number, length: number): Promise<boolean>
  /** Gives space back. False where the filesystem cannot. */
  punch(offset: number, length: number): Promise<boolean>
  sync(): Promise<void>
  close(): Promise<void>
}

export interface OverlayFiles {
  open(path: string, options: { readonly create: boolean }): Promise<OverlayFile>
  /** Held until disposed or the process ends, however it ends. Undefined where another holds it. */
  lock(path: string): Promise<AsyncDisposable | undefined>
  names(folder: string): Promise<readonly string[]>
  rename(from: string, to: string): Promise<void>
  unlink(path: string): Promise<void>
  makeFolder(path: string): Promise<void>
  /** Makes the names in a folder durable. */
  syncFolder(path: string): Promise<void>
}

export const nodeOverlayFiles: OverlayFiles = {
  open: async (path, { create }) =>
    new NodeFile(await fs.open(path, create ? fs.constants.O_RDWR | fs.constants.O_CREAT : fs.constants.O_RDWR, 0o600)),
  lock: async path => {
    const file = await fs.open(path, fs.constants.O_RDWR | fs.constants.O_CREAT, 0o600)
    const failure = loadAddon().lockFile(file.fd)
    if (failure === 0) return { [Symbol.asyncDispose]: () => file.close() }
    await file.close()
    if (failure === constants.errno.EWOULDBLOCK) return undefined
    throw systemError('flock', failure)
  },
  names: path => fs.readdir(path),
  rename: fs.rename,
  unlink: fs.unlink,
  makeFolder: path => fs.mkdir(path, { recursive: true, mode: 0o700 }).then(() => undefined),
  syncFolder: async path => {
    const folder = await fs.open(path, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY)
    try {
      await folder.sync()
    } finally {
      await folder.close()
    }
  },
}

class NodeFile implements OverlayFile {
  readonly #file: fs.FileHandle

  constructor(file: fs.FileHandle) {
    this.#file = file
  }

  get fd(): number {
    return this.#file.fd
  }

  async size(): Promise<number> {
    return (await this.#file.stat()).size
  }

  async readAt(target: Uint8Array, position: number): Promise<number> {
    let done = 0
    while (done < target.length) {
      const { bytesRead } = await this.#file.read(target, done, target.length - done, position + done)
      if (bytesRead === 0) break
      done += bytesRead
    }
    return done
  }

  async writeAt(bytes: Uint8Array, position: number): Promise<void> {
    for (let at = 0; at < bytes.length; )
      at += (await this.#file.write(bytes, at, bytes.length - at, position + at)).bytesWritten
  }

  async readBlocks(parts: readonly Uint8Array[], positions: Float64Array, checks: Uint32Array): Promise<void> {
    const failure = await loadAddon().readBlocks(this.#file.fd, parts, checks, positions)
    if (failure === constants.errno.ENODATA) throw overlayDamaged('data', 'it is cut off')
    if (failure !== 0) throw systemError('preadv', failure)
  }

  writeBlocks({ parts, positions, checks, log, record, recordPosition }: BlockBatch, now: boolean) {
    const call = [this.#file.fd, parts, checks, positions, log.fd, record, recordPosition] as const
    const written = loadAddon().writeBlocks(...call, now ? 1 : 0)
    if (typeof written !== 'number') return written.then(mustBeWritten)
    mustBeWritten(written)
    return undefined
  }

  truncate(size: number): Promise<void> {
    return this.#file.truncate(size)
  }

  reserve(offset: number, length: number): Promise<boolean> {
    return allocate(this.#file, offset, length)
  }

  punch(offset: number, length: number): Promise<boolean> {
    return punchHole(this.#file, offset, length)
  }

  sync(): Promise<void> {
    return this.#file.datasync()
  }

  close(): Promise<void> {
    return this.#file.close()
  }
}

function mustBeWritten(failure: number): void {
  if (failure !== 0) throw systemError('pwritev', failure)
}

function systemError(call: string, errno: number): Error {
  const code = getSystemErrorName(-errno)
  return Object.assign(new Error(`${code}: ${call} failed`), { code, errno: -errno, syscall: call })
}
