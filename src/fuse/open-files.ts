/** Files that the kernel has open: what is in memory is answered in the turn that read the request, without a copy or a promise. */
import type { BlockReader, BorrowedViews } from '../block/block-device.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { FileNode } from '../files/file-tree.ts'
import { ByteGate } from './byte-gate.ts'
import { SEEK_DATA } from './constants.ts'
import { VIEWS_MAX } from './replies.ts'

export interface OpenFile {
  readonly reader: BlockReader
  reads: number
  released: boolean
}

export class OpenFiles {
  readonly #files = new Map<number, OpenFile>()
  readonly #gate = new ByteGate(limits.fuseReadBytes)
  readonly #failed: (what: string, error: unknown) => void
  #last = 0

  constructor(failed: (what: string, error: unknown) => void) {
    this.#failed = failed
  }

  get(handle: number): OpenFile | undefined {
    return this.#files.get(handle)
  }

  async open(node: FileNode, options: AbortOptions): Promise<OpenFile> {
    return { reader: await node.open(options), reads: 0, released: false }
  }

  add(file: OpenFile): number {
    this.#files.set(++this.#last, file)
    return this.#last
  }

  /** From the kernel's list; it is still to be dropped. */
  remove(handle: number): OpenFile | undefined {
    const file = this.#files.get(handle)
    this.#files.delete(handle)
    return file
  }

  /** Closes it when the last read has ended: one that was interrupted may go on for a while. */
  drop(file: OpenFile): void {
    file.released = true
    if (file.reads === 0) void this.#close(file)
  }

  /** Of a read as much as there is: none behind the end. */
  length({ reader }: OpenFile, offset: number, size: number): number {
    return Math.max(0, Math.min(size, reader.size - offset))
  }

  borrow({ reader }: OpenFile, offset: number, length: number): BorrowedViews | undefined {
    const borrowed = reader.borrow?.(offset, length)
    if (borrowed === undefined || borrowed.views.length <= VIEWS_MAX) return borrowed
    borrowed.release()
    return undefined
  }

  async read(file: OpenFile, offset: number, length: number, options: AbortOptions): Promise<Uint8Array> {
    file.reads++
    await this.#gate.enter(length)
    try {
      options.signal?.throwIfAborted()
      const bytes = Buffer.allocUnsafeSlow(length)
      await file.reader.readInto(bytes, offset, options)
      return bytes
    } finally {
      this.#gate.leave(length)
      file.reads--
      if (file.released && file.reads === 0) void this.#close(file)
    }
  }

  /** SEEK_DATA and SEEK_HOLE: undefined where nothing of that kind follows. The end is a hole. */
  async seek({ reader }: OpenFile, offset: number, whence: number, options: AbortOptions): Promise<number | undefined> {
    if (offset >= reader.size) return undefined
    const wanted = whence === SEEK_DATA ? 'data' : 'zero'
    for await (const extent of reader.extents({ offset, length: reader.size - offset }, options))
      if (extent.kind === wanted) return extent.offset
    return wanted === 'data' ? undefined : reader.size
  }

  async closeAll(): Promise<void> {
    const files = [...this.#files.values()]
    this.#files.clear()
    await Promise.all(files.map(file => this.#close(file)))
  }

  async #close({ reader }: OpenFile): Promise<void> {
    try {
      await reader[Symbol.asyncDispose]()
    } catch (error) {
      this.#failed('a file was not closed', error)
    }
  }
}
