/** A plain raw file or block device of this host as a device. */
import { type FileHandle, open, readFile } from 'node:fs/promises'
import { LifeboatError } from '../core/errors.ts'
import { type Extent, type Range, rangeEnd } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'
import { punchHole, seekData, seekHole } from '../native/sparse-file.ts'
import type { BlockDevice } from './block-device.ts'
import { RangeLock } from './range-lock.ts'

const BLOCK = 4096
const ZEROS = new Uint8Array(1 << 20)
const nothing = () => {}

export interface FileBlockDevice extends BlockDevice {
  /** `zero` makes a hole, however much it covers; else it writes. */
  readonly zeroesFast: boolean
}

/** Holes are found with SEEK_DATA and SEEK_HOLE, where the kernel's answer is a promise: only then is an extent 'zero'. */
export async function fileDevice(path: string, options: { readonly readOnly: boolean }): Promise<FileBlockDevice> {
  const file = await open(path, options.readOnly ? 'r' : 'r+').catch(cause => {
    throw new LifeboatError('usage', `cannot open ${path}: ${cause.code}`, {
      cause,
      hint: 'Name a regular file or block device that this user may open.',
    })
  })
  try {
    const size = await sizeOf(file, path)
    return new FileDevice(file, size, { ...options, zeroesFast: !options.readOnly && (await makesHoles(file, size)) })
  } catch (error) {
    await file.close()
    throw error
  }
}

/** stat says 0 for a block device; the kernel gives its size in sectors of 512 bytes. */
async function sizeOf(file: FileHandle, path: string): Promise<number> {
  const stat = await file.stat()
  if (stat.isFile()) return stat.size
  if (!stat.isBlockDevice())
    throw new LifeboatError('usage', `${path} is neither a regular file nor a block device`, {
      hint: 'Name one that is.',
    })
  const major = ((stat.rdev >>> 8) & 0xfff) | 0
  const minor = (stat.rdev & 0xff) | ((stat.rdev >>> 12) & 0xfff00)
  return Number(await readFile(`/sys/dev/block/${major}:${minor}/size`, 'utf8')) * 512
}

/**
 * Whether this file's filesystem does, asked for a byte behind the end, where nothing is. A block device may write zeros for a
 * hole, or may take minutes to discard: it is not said to be fast.
 */
async function makesHoles(file: FileHandle, size: number): Promise<boolean> {
  if (!(await file.stat()).isFile()) return false
  return punchHole(file, size, 1).catch(() => false)
}

class FileDevice implements FileBlockDevice {
  readonly size: number
  readonly blockSize = BLOCK
  readonly zeroesFast: boolean
  readonly #file: FileHandle
  readonly #readOnly: boolean
  /** The kernel copies page by page: a read beside a write of the same sector could get half of each. */
  readonly #ranges = new RangeLock()
  /** A failed fsync is never forgotten: the kernel may have dropped the pages and would report success the next time. */
  #syncFailure: unknown

  constructor(
    file: FileHandle,
    size: number,
    { readOnly, zeroesFast }: { readonly readOnly: boolean; readonly zeroesFast: boolean },
  ) {
    this.#file = file
    this.size = size
    this.#readOnly = readOnly
    this.zeroesFast = zeroesFast
  }

  async readInto(target: Uint8Array, offset: number, { signal }: AbortOptions = {}): Promise<void> {
    this.#check(offset, target.length)
    const give = this.#readOnly ? nothing : await this.#ranges.take(offset, target.length, false)
    try {
      for (let at = 0; at < target.length; ) {
        signal?.throwIfAborted()
        const { bytesRead } = await this.#file.read(target, at, target.length - at, offset + at)
        if (bytesRead === 0) throw new LifeboatError('internal', `the file has become shorter than ${this.size} bytes`)
        at += bytesRead
      }
    } finally {
      give()
    }
  }

  async *extents(range: Range, { signal }: AbortOptions = {}): AsyncGenerator<Extent> {
    this.#check(range.offset, range.length)
    const end = rangeEnd(range)
    for (let at = range.offset; at < end; ) {
      signal?.throwIfAborted()
      const data = Math.min((await seekData(this.#file, at)) ?? end, end)
      if (data > at) yield { offset: at, length: data - at, kind: 'zero' }
      if (data >= end) return
      const hole = Math.min((await seekHole(this.#file, data)) ?? end, end)
      // A file that is written at the same time may say nonsense; that much is then called data.
      const until = hole > data ? hole : Math.min(data + BLOCK, end)
      yield { offset: data, length: until - data, kind: 'data' }
      at = until
    }
  }

  async write(source: Uint8Array, offset: number, options: { fua?: boolean } & AbortOptions = {}): Promise<void> {
    this.#checkWrite(offset, source.length)
    const give = await this.#ranges.take(offset, source.length, true)
    try {
      for (let at = 0; at < source.length; ) {
        options.signal?.throwIfAborted()
        const { bytesWritten } = await this.#file.write(source, at, source.length - at, offset + at)
        at += bytesWritten
      }
    } finally {
      give()
    }
    if (options.fua) await this.#sync()
  }

  async zero(range: Range, options: { fua?: boolean } & AbortOptions = {}): Promise<void> {
    this.#checkWrite(range.offset, range.length)
    if (!(await this.#punch(range)))
      for (let at = 0; at < range.length; at += ZEROS.length)
        await this.write(ZEROS.subarray(0, Math.min(ZEROS.length, range.length - at)), range.offset + at, {
          signal: options.signal,
        })
    if (options.fua) await this.#sync()
  }

  /** A hint: a filesystem without holes keeps the bytes. */
  async trim(range: Range): Promise<void> {
    this.#checkWrite(range.offset, range.length)
    await this.#punch(range)
  }

  async flush(): Promise<void> {
    if (!this.#readOnly) await this.#sync()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close()
  }

  /** False where the filesystem has no holes. */
  async #punch({ offset, length }: Range): Promise<boolean> {
    const give = await this.#ranges.take(offset, length, true)
    try {
      return await punchHole(this.#file, offset, length)
    } finally {
      give()
    }
  }

  async #sync(): Promise<void> {
    if (this.#syncFailure !== undefined) throw this.#syncFailure
    try {
      await this.#file.datasync()
    } catch (cause) {
      this.#syncFailure = new LifeboatError('internal', 'an earlier fsync failed: written data may be lost', {
        cause,
        hint: 'Check the disk below this file, then start again and repeat what was written.',
      })
      throw this.#syncFailure
    }
  }

  #check(offset: number, length: number): void {
    if (offset < 0 || length < 0 || offset + length > this.size)
      throw new RangeError(`${offset}+${length} is outside the ${this.size} bytes of the device`)
  }

  #checkWrite(offset: number, length: number): void {
    this.#check(offset, length)
    if (this.#readOnly)
      throw new LifeboatError('store-denied', 'the device is read-only', { hint: 'Open it for writing.' })
  }
}
