/** Slots of pages that are no part of a map any more are given up behind the reply: zeros over a terabyte cost no more than others. */
import { limits } from '../core/limits.ts'
import type { OverlayFile } from './overlay-files.ts'
import { FIRST_SLOT } from './overlay-format.ts'
import type { DetachedPage } from './overlay-map.ts'
import { freeAll, wordsOf } from './overlay-pages.ts'
import type { SlotSpace } from './overlay-space.ts'

export class PageReclaimer {
  readonly #data: OverlayFile
  readonly #space: SlotSpace
  readonly #flush: () => Promise<void>
  #detached: DetachedPage[] = []
  #running: Promise<void> | undefined

  /** `flush` makes slots that were given up free, if it can. */
  constructor(data: OverlayFile, space: SlotSpace, flush: () => Promise<void>) {
    this.#data = data
    this.#space = space
    this.#flush = flush
  }

  /** Gives up the slots of a page's blocks, and later its own. */
  add(page: DetachedPage): void {
    this.#detached.push(page)
    this.#running ??= this.#run().finally(() => {
      this.#running = undefined
    })
  }

  async ended(): Promise<void> {
    while (this.#running !== undefined) await this.#running
  }

  async #run(): Promise<void> {
    while (this.#detached.length > 0) {
      const some = this.#detached.splice(0, limits.overlayPagesPerRead)
      for (const words of await wordsOf(this.#data, some))
        if (words !== undefined) freeAll(words, slot => this.#space.free(slot))
      for (const { location } of some) if (location >= FIRST_SLOT) this.#space.freePage(location - FIRST_SLOT)
      if (this.#space.freedCount > limits.overlayFreedSlots) await this.#flush().catch(() => {})
      await new Promise(resolve => setImmediate(resolve))
    }
    await this.#flush().catch(() => {})
  }
}
