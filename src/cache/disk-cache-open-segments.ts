/** A few open files, the least recently used one closed first, and none while somebody reads from it. */
import { limits } from '../core/limits.ts'
import type { CacheFiles, SegmentFile } from './disk-cache-files.ts'

interface Opened {
  readonly file: Promise<SegmentFile>
  users: number
  isClosing: boolean
}

export class OpenSegments {
  readonly #files: CacheFiles
  /** By path, the least recently used one first. */
  readonly #opened = new Map<string, Opened>()
  readonly #closing = new Set<Promise<void>>()

  constructor(files: CacheFiles) {
    this.#files = files
  }

  async use<T>(path: string, work: (file: SegmentFile) => Promise<T>): Promise<T> {
    const opened = this.#opened.get(path) ?? { file: this.#files.open(path), users: 0, isClosing: false }
    this.#opened.delete(path)
    this.#opened.set(path, opened)
    opened.users++
    for (const oldest of this.#opened.keys()) {
      if (this.#opened.size <= limits.diskCacheFilesOpen) break
      this.close(oldest)
    }
    try {
      return await work(await opened.file)
    } catch (error) {
      this.close(path)
      throw error
    } finally {
      opened.users--
      this.#endIfUnused(opened)
    }
  }

  close(path: string): void {
    const opened = this.#opened.get(path)
    if (!opened) return
    this.#opened.delete(path)
    opened.isClosing = true
    this.#endIfUnused(opened)
  }

  async closeAll(): Promise<void> {
    for (const path of [...this.#opened.keys()]) this.close(path)
    await Promise.all(this.#closing)
  }

  #endIfUnused(opened: Opened): void {
    if (!opened.isClosing || opened.users > 0) return
    const ended: Promise<void> = opened.file
      .then(file => file.close())
      .catch(() => {})
      .finally(() => this.#closing.delete(ended))
    this.#closing.add(ended)
  }
}
