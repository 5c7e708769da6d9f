/** Which chunks a guest touched, in the order of their first touches, until somebody ends it or there are too many. Pure state, no I/O. */
import { limits } from '../core/limits.ts'
import type { Touch } from '../repository/boot-trace.ts'

export interface TraceRecorderOptions {
  /** Bytes. */
  readonly chunkSize: number
  readonly diskCount: number
  readonly touchesMax?: number
  /** Told of each first touch. */
  readonly onTouch?: (touch: Touch) => void
}

export class TraceRecorder {
  readonly touches: Touch[] = []
  /** Resolves at the first touch. */
  readonly began: Promise<void>
  /** Resolves when no more touches are taken. */
  readonly ended: Promise<void>
  readonly #options: TraceRecorderOptions
  readonly #touchesMax: number
  readonly #begin: () => void
  readonly #end: () => void
  /** Chunks by disk. Taken away at the end, so that each read after it costs one comparison. */
  #seen: readonly Set<number>[] | undefined

  constructor(options: TraceRecorderOptions) {
    const began = Promise.withResolvers<void>()
    const ended = Promise.withResolvers<void>()
    this.began = began.promise
    this.ended = ended.promise
    this.#begin = began.resolve
    this.#end = ended.resolve
    this.#options = options
    this.#touchesMax = options.touchesMax ?? limits.traceTouchesMax
    this.#seen = Array.from({ length: options.diskCount }, () => new Set())
  }

  /** Bytes [offset, offset + length) of disk number `disk` were read. */
  note(disk: number, offset: number, length: number): void {
    const seen = this.#seen?.[disk]
    if (!seen) return
    const { chunkSize, onTouch } = this.#options
    for (let chunk = Math.floor(offset / chunkSize); chunk * chunkSize < offset + length; chunk++) {
      if (seen.has(chunk)) continue
      seen.add(chunk)
      const touch = { disk, chunk }
      if (this.touches.push(touch) === 1) this.#begin()
      onTouch?.(touch)
      if (this.touches.length < this.#touchesMax) continue
      this.end()
      return
    }
  }

  end(): void {
    this.#seen = undefined
    this.#end()
  }
}
