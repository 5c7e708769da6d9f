/**
 * Reads what an earlier boot touched ahead of the guest: windows of touches in the order of that boot, each sorted by place, so
 * that neighbours share a GET. It gives way: while a guest's read waits, no window is begun, unless there would never be one;
 * what is ahead of the guest never takes more than its budget, and a guest that goes other ways ends it by not following. Its
 * failures are nobody's: whoever comes to a place that could not be read meets the failure and reports it.
 */
import type { Clock } from '../core/clock.ts'
import { isIntegrityError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { BootTrace, Touch } from '../repository/boot-trace.ts'

export interface ReplayedDisk {
  /** Bytes. */
  readonly size: number
  /** Of a chunk, bytes. */
  readonly blockSize: number
  /** Gives how many chunks the source was asked for. */
  prefetchChunks(chunks: readonly number[], options: { readonly getsAtOnce: number } & AbortOptions): Promise<number>
}

export interface ReplayOptions {
  /** By name; touches of others, or beyond the end, are left out. */
  readonly disks: ReadonlyMap<string, ReplayedDisk>
  readonly trace: BootTrace
  /** Of chunks that were fetched and that the guest has not come to. */
  readonly budgetBytes: number
  /** A read of the guest waits for the store now. */
  readonly isGuestWaiting: () => boolean
  readonly clock: Clock
}

export class TraceReplay {
  readonly #options: ReplayOptions
  readonly #windowTouches: number
  /** Places that the guest has come to before they were asked for. */
  readonly #touched = new Set<string>()
  /** Those that were asked for, and that the guest has not come to. */
  readonly #ahead = new Set<string>()
  #changed = Promise.withResolvers<void>()
  #fetched = 0
  #isOver = false
  /** Of the last window that was begun, and of the last that ended, milliseconds. */
  #begunMs = 0
  #tookMs = 0

  constructor(options: ReplayOptions) {
    this.#options = options
    this.#windowTouches = Math.min(
      limits.traceWindowTouches,
      Math.floor(options.budgetBytes / Math.max(1, options.trace.chunkSize)),
    )
  }

  /** Chunks that the source was asked for, so far. */
  get fetched(): number {
    return this.#fetched
  }

  /** The guest came to this chunk. */
  touched(disk: string, chunk: number): void {
    if (this.#isOver) return
    const place = placeOf(disk, chunk)
    if (!this.#ahead.delete(place)) this.#touched.add(place)
    this.wake()
  }

  /** Something that it waits for may have come true. */
  wake(): void {
    this.#changed.resolve()
  }

  /** Resolves when all is read, or there is no use in going on. Rejects with the signal's reason only. */
  async run({ signal }: AbortOptions = {}): Promise<void> {
    const onAbort = () => this.wake()
    signal?.addEventListener('abort', onAbort)
    const underWay = new Set<Promise<void>>()
    this.#begunMs = this.#options.clock.monotonicMs()
    try {
      const { touches } = this.#options.trace
      for (let at = 0; this.#windowTouches > 0 && at < touches.length; at += this.#windowTouches) {
        await this.#until(() => this.#mayBegin(underWay.size), signal)
        if (this.#isOver) break
        const window = this.#wanted(touches.slice(at, at + this.#windowTouches))
        if (window.size === 0) continue
        const begunMs = this.#options.clock.monotonicMs()
        this.#begunMs = begunMs
        const task: Promise<void> = this.#fetch(window, { signal }).finally(() => {
          this.#tookMs = this.#options.clock.monotonicMs() - begunMs
          underWay.delete(task)
          this.wake()
        })
        underWay.add(task)
      }
    } finally {
      await Promise.all(underWay)
      this.#isOver = true
      signal?.removeEventListener('abort', onAbort)
    }
    signal?.throwIfAborted()
  }

  #mayBegin(underWay: number): boolean {
    const { budgetBytes, isGuestWaiting, trace } = this.#options
    if (underWay >= limits.traceWindowsInFlight) return false
    if ((this.#ahead.size + this.#windowTouches) * trace.chunkSize > budgetBytes) return false
    return !isGuestWaiting() || (underWay === 0 && this.#yieldedMs() >= this.#yieldMs())
  }

  #yieldMs(): number {
    return Math.max(limits.traceYieldMs, 2 * this.#tookMs)
  }

  #yieldedMs(): number {
    return this.#options.clock.monotonicMs() - this.#begunMs
  }

  async #until(isTrue: () => boolean, signal: AbortSignal | undefined): Promise<void> {
    for (;;) {
      signal?.throwIfAborted()
      if (this.#isOver || isTrue()) return
      this.#changed = Promise.withResolvers()
      const changed = new AbortController()
      const leftMs = this.#yieldMs() - this.#yieldedMs()
      // Time alone makes a difference while it gives way to the guest, and until the wait is over.
      if (leftMs > 0 && this.#options.isGuestWaiting())
        this.#options.clock.sleep(leftMs, { signal: changed.signal }).then(
          () => this.wake(),
          () => {},
        )
      await this.#changed.promise
      changed.abort()
    }
  }

  /** By disk, in order of place; all of it counts as ahead of the guest from now on. */
  #wanted(touches: readonly Touch[]): ReadonlyMap<ReplayedDisk, readonly number[]> {
    const { disks, trace } = this.#options
    const wanted = new Map<ReplayedDisk, number[]>()
    for (const { disk: number, chunk } of touches) {
      const name = trace.disks[number] ?? ''
      const disk = disks.get(name)
      if (!disk || disk.blockSize !== trace.chunkSize || chunk * trace.chunkSize >= disk.size) continue
      const place = placeOf(name, chunk)
      if (this.#ahead.has(place) || this.#touched.delete(place)) continue
      this.#ahead.add(place)
      const chunks = wanted.get(disk) ?? []
      chunks.push(chunk)
      wanted.set(disk, chunks)
    }
    for (const chunks of wanted.values()) chunks.sort((a, b) => a - b)
    return wanted
  }

  async #fetch(window: ReadonlyMap<ReplayedDisk, readonly number[]>, { signal }: AbortOptions): Promise<void> {
    const getsAtOnce = Math.max(1, Math.floor(limits.traceWindowGets / window.size))
    await Promise.all(
      [...window].map(async ([disk, chunks]) => {
        try {
          const fetched = await disk.prefetchChunks(chunks, { getsAtOnce, signal })
          this.#fetched += fetched
        } catch (error) {
          // A damaged chunk says nothing about others. A store that fails is not asked for what nobody has asked for.
          if (!isIntegrityError(error)) this.#isOver = true
        }
      }),
    )
  }
}

const placeOf = (disk: string, chunk: number): string => `${chunk} ${disk}`
