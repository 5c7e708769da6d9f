/**
 * Storing the map, so that journals stay short: the changed pages go to fresh slots, then a new map file, which names them,
 * takes the place of the old one by rename. It is taken at one instant, between two batches, with a new journal for what
 * comes after; a freeze is the same instant, kept. Until the rename is durable the old map and both journals hold.
 */
import path from 'node:path'
import type { Clock } from '../core/clock.ts'
import { limits } from '../core/limits.ts'
import * as F from './overlay-format.ts'
import { createJournal } from './overlay-journal.ts'
import type { DiskMap, MapPage } from './overlay-map.ts'
import { type OverlayPlace, writeMap } from './overlay-place.ts'
import { journalName } from './overlay-recovery.ts'
import type { SlotRun } from './overlay-space.ts'
import type { OverlayStore } from './overlay-store.ts'

/** What all disks held at one instant, as the stored map names it. */
export interface MapImage {
  readonly disks: readonly F.MapDisk[]
  /** The slots that it names. */
  readonly used: Uint8Array
}

interface SavedPage {
  readonly disk: DiskMap
  readonly index: number
  readonly page: MapPage
  readonly words: Uint32Array
  readonly former: number
  readonly location: number
  /** Where its check goes in the image. */
  readonly place: number
}

interface Instant {
  readonly image: MapImage
  readonly saved: readonly SavedPage[]
  readonly header: F.MapHeader
  readonly freed: readonly number[]
  readonly freedPages: readonly number[]
}

export class MapKeeper {
  readonly #place: OverlayPlace
  readonly #store: OverlayStore
  #last: Promise<unknown> = Promise.resolve()
  #wanted: Promise<void> | undefined
  #label: string
  readonly #clock: Clock
  #lastTry: { readonly failed: unknown; readonly untilMs: number } = { failed: undefined, untilMs: 0 }

  constructor(place: OverlayPlace, store: OverlayStore, label: string, clock: Clock) {
    this.#clock = clock
    this.#place = place
    this.#store = store
    this.#label = label
    store.wantsMap = () => this.want()
  }

  get label(): string {
    return this.#label
  }

  /** From the next map on. */
  relabel(label: string): void {
    this.#label = label
  }

  /** Stores a map soon; joins one that was asked for. One that fails leaves everything as it was. */
  want(): Promise<void> {
    if (this.#store.sync.failure !== undefined) return Promise.resolve()
    const { failed } = this.#lastTry
    if (failed !== undefined && this.#clock.monotonicMs() < this.#lastTry.untilMs) return Promise.reject(failed)
    this.#wanted ??= this.exclusively(() => this.save())
      .then(
        () => {
          this.#lastTry = { failed: undefined, untilMs: 0 }
        },
        error => {
          this.#lastTry = { failed: error, untilMs: this.#clock.monotonicMs() + limits.overlayMapRetryMs }
          throw error
        },
      )
      .finally(() => {
        this.#wanted = undefined
      })
    return this.#wanted
  }

  /** Runs `work` while no other map is stored. */
  exclusively<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#last.then(work)
    this.#last = result.catch(() => {})
    return result
  }

  /** Only inside `exclusively`. `atInstant` is called at the instant itself. */
  async save(atInstant: (image: MapImage) => void = () => {}): Promise<MapImage> {
    const store = this.#store
    // Slots of pages that are gone must have been given up, or the map would keep them for ever.
    await store.reclaimer.ended()
    const instant = await store.alone(() => this.#instant(atInstant))
    try {
      await this.#write(instant)
    } catch (error) {
      for (const { page, words, location } of instant.saved) {
        if (page.words === words) page.sealed = false
        store.space.free(location - F.FIRST_SLOT)
      }
      store.space.keepFreed(instant.freed)
      for (const slot of instant.freedPages) store.space.freePage(slot)
      throw error
    }
    await this.#finish(instant)
    return instant.image
  }

  async #instant(atInstant: (image: MapImage) => void): Promise<Instant> {
    const store = this.#store
    const { space } = store
    const changed = store.disks.flatMap(disk =>
      [...disk.resident].flatMap(([index, page]) => (page.dirty ? [{ disk, index, page }] : [])),
    )
    const slots = slotsOf(changed.length === 0 ? [] : await store.take(changed.length))
    // What comes after relies on all that this journal holds.
    await store.sync.files([store.journal.file])
    const next = await createJournal(this.#place, store.journal.number + 1, store.sequence)
    const locations = new Map<DiskMap, Map<number, number>>(store.disks.map(disk => [disk, new Map()]))
    changed.sort((a, b) => a.disk.index - b.disk.index || a.index - b.index)
    for (const [n, { disk, index }] of changed.entries()) locations.get(disk)?.set(index, slots[n]! + F.FIRST_SLOT)
    const freed = space.syncBegins()
    const used = space.image()
    for (const slot of freed) clearBit(used, slot)
    for (const { disk, index } of changed)
      if (disk.locations[index]! >= F.FIRST_SLOT) clearBit(used, disk.locations[index]! - F.FIRST_SLOT)
    const freedPages = space.takeFreedPages()
    const disks = store.disks.map(disk => imageOf(disk, locations.get(disk)!))
    const saved = changed.map(({ disk, index, page }, n) => {
      page.sealed = true
      const location = slots[n]! + F.FIRST_SLOT
      const place = placeOf(disks[disk.index]!.indexes, index)
      return { disk, index, page, words: page.words, former: disk.locations[index]!, location, place }
    })
    store.journals.push(next)
    const image = { disks, used }
    atInstant(image)
    const header = {
      id: this.#place.id,
      baseLabel: this.#label,
      journal: next.number,
      sequence: store.sequence,
      slots: space.slots,
      disks: store.disks.map(({ name, size }, n) => ({ name, size, pages: disks[n]!.indexes.length })),
    }
    return { image, saved, header, freed, freedPages }
  }

  async #write({ image, saved, header }: Instant): Promise<void> {
    const store = this.#store
    const { data } = store
    for (let at = 0; at < saved.length; at += limits.overlayPagesPerRead) {
      const some = saved.slice(at, at + limits.overlayPagesPerRead)
      const checks = new Uint32Array(some.length)
      const parts = some.map(({ words }) => new Uint8Array(words.buffer, words.byteOffset, F.BLOCK))
      const positions = Float64Array.from(some, ({ location }) => (location - F.FIRST_SLOT) * F.BLOCK)
      await data.writeBlocks(
        { parts, positions, checks, log: data, record: new Uint8Array(0), recordPosition: 0 },
        false,
      )
      for (const [n, { disk, place }] of some.entries()) image.disks[disk.index]!.checks[place] = checks[n]!
    }
    await store.sync.files([data])
    await writeMap(this.#place, F.encodeMap(header, image.disks, image.used))
  }

  async #finish({ image, saved, freed, freedPages }: Instant): Promise<void> {
    const store = this.#store
    const { space } = store
    for (const { disk, index, page, words, former, location, place } of saved) {
      const stays = disk.resident.get(index) === page && disk.locations[index] === former
      if (stays) {
        disk.locations[index] = location
        disk.checks[index] = image.disks[disk.index]!.checks[place]!
        if (page.words === words) disk.clean(page)
        if (former >= F.FIRST_SLOT) space.release([former - F.FIRST_SLOT])
      } else space.freePage(location - F.FIRST_SLOT)
    }
    space.release(freed)
    space.release(freedPages)
    const old = store.journals.slice(0, -1)
    store.journals = store.journals.slice(-1)
    for (const { file, number } of old) {
      await file.close()
      await this.#place.files.unlink(path.join(this.#place.folder, journalName(number))).catch(() => {})
    }
    for (const disk of store.disks) disk.evict()
  }
}

function imageOf(disk: DiskMap, moved: ReadonlyMap<number, number>): F.MapDisk {
  const pages: number[] = []
  for (let page = 0; page < disk.locations.length; page++)
    if (disk.locations[page] !== F.BELOW || moved.has(page)) pages.push(page)
  const bits = new Uint8Array(pages.length * 64)
  for (const [n, page] of pages.entries()) bits.set(disk.bits.subarray(page * 64, page * 64 + 64), n * 64)
  return {
    indexes: Uint32Array.from(pages),
    locations: Uint32Array.from(pages, page => moved.get(page) ?? disk.locations[page]!),
    checks: Uint32Array.from(pages, page => disk.checks[page]!),
    bits,
  }
}

/** Where a number stands among others that ascend. */
function placeOf(indexes: Uint32Array, index: number): number {
  let [low, high] = [0, indexes.length - 1]
  while (low < high) {
    const middle = (low + high) >>> 1
    if (indexes[middle]! < index) low = middle + 1
    else high = middle
  }
  return low
}

const slotsOf = (runs: readonly SlotRun[]): number[] =>
  runs.flatMap(({ first, count }) => Array.from({ length: count }, (_, n) => first + n))

function clearBit(bits: Uint8Array, at: number): void {
  bits[at >>> 3]! &= ~(1 << (at & 7))
}
