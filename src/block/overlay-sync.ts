/**
 * What makes an overlay durable: syncs, the marks that say how far they went, and the memory of one that failed. A flush joins
 * the next sync, for the running one may have passed by what was acknowledged since it began.
 */
import { LifeboatError } from '../core/errors.ts'
import type { OverlayFile } from './overlay-files.ts'
import * as F from './overlay-format.ts'
import type { Journal } from './overlay-journal.ts'
import type { SlotSpace } from './overlay-space.ts'

/** What is synced: it goes on meanwhile. */
export interface Synced {
  readonly data: OverlayFile
  readonly space: SlotSpace
  /** The last one takes records. */
  readonly journals: readonly Journal[]
  readonly journal: Journal
  /** Of the last record. */
  readonly sequence: number
  alone<T>(run: () => Promise<T>): Promise<T>
}

export class OverlaySync {
  readonly #of: Synced
  #waiting: { resolve: () => void; reject: (error: unknown) => void }[] = []
  #notes = 0
  #failure: LifeboatError | undefined
  /** A flush is under way. */
  running = false

  constructor(of: Synced) {
    this.#of = of
  }

  /** Of the first sync that failed. */
  get failure(): LifeboatError | undefined {
    return this.#failure
  }

  /** Everything that was acknowledged before is durable. */
  flush(): Promise<void> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure)
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject })
      if (!this.running) void this.#flushAll()
    })
  }

  /** A flush from inside the queue, which its mark could not wait for. It may run beside another one. */
  async beside(): Promise<void> {
    await this.#sync(run => run())
  }

  /**
   * After a failed fsync the kernel may have dropped the pages and would report success the next time. So it is never
   * forgotten: nothing is called durable any more, and the next opening goes back to what was.
   */
  async files(files: readonly OverlayFile[]): Promise<void> {
    const results = await Promise.allSettled(files.map(file => file.sync()))
    const failed = results.find(result => result.status === 'rejected')
    if (failed === undefined && this.#failure === undefined) return
    if (this.#failure === undefined) {
      this.#failure = new LifeboatError('file-failed', 'an fsync of the overlay failed: written data may be lost', {
        cause: failed?.reason,
        hint: 'Check the disk below the overlay, then start the session again: it says what was lost.',
      })
      void this.#of.alone(async () => {
        const { journal, sequence } = this.#of
        // Not behind space that is reserved first: such a disk may refuse that as well.
        await journal.file.writeAt(F.encodeFailure(sequence), journal.position).catch(() => {})
        journal.position += F.RECORD_HEAD
      })
    }
    throw this.#failure
  }

  async #flushAll(): Promise<void> {
    this.running = true
    while (this.#waiting.length > 0) {
      const waiting = this.#waiting
      this.#waiting = []
      try {
        await this.#sync(run => this.#of.alone(run))
        for (const { resolve } of waiting) resolve()
      } catch (error) {
        for (const { reject } of waiting) reject(error)
      }
    }
    this.running = false
  }

  async #sync(alone: (run: () => Promise<void>) => Promise<void>): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure
    const { data, space, journals, sequence } = this.#of
    const freed = space.syncBegins()
    try {
      await this.files([data, ...journals.map(({ file }) => file)])
      let marked = this.#of.journal
      let end = 0
      await alone(async () => {
        marked = this.#of.journal
        await marked.append(F.encodeMark(this.#of.sequence, sequence))
        end = marked.position
      })
      await this.files([marked.file])
      this.#notes++
      await marked.file.writeAt(F.encodeNote(this.#notes, end), F.NOTE_POSITIONS[this.#notes & 1]!).catch(() => {})
    } catch (error) {
      space.keepFreed(freed)
      throw error
    }
    space.release(freed)
    await space.giveBack().catch(() => {})
  }
}
