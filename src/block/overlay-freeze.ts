/**
 * One instant of all disks of an overlay, kept while writes go on, and its end: either nothing, or `settle`, by which what it
 * shows becomes what lies below.
 */
import { LifeboatError } from '../core/errors.ts'
import { limits, MiB } from '../core/limits.ts'
import { mergeRanges, type Range } from '../core/range.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { BlockReader } from './block-device.ts'
import type { MapKeeper } from './overlay-checkpoint.ts'
import { BELOW, BLOCK, FIRST_SLOT, PAGE_BLOCKS, ZERO } from './overlay-format.ts'
import { DiskMap, type MapPage } from './overlay-map.ts'
import { mapExtents, readMapped } from './overlay-read.ts'
import type { OverlayStore } from './overlay-store.ts'

export interface FrozenDisk {
  readonly image: BlockReader
  /** As `OverlayDisk.written` of the whole disk; where there are very many, gaps are swallowed. */
  readonly written: readonly Range[]
}

export interface FrozenOverlays extends AsyncDisposable {
  disk(name: string): FrozenDisk
  /**
   * `base` holds what the views show: unwritten blocks are read from it from now on, and `written` begins anew. Durable when
   * it resolves; a crash before leaves the old state with the old label, or the new one with the new label. If it fails, ask
   * for the label at the next opening.
   */
  settle(base: (name: string) => BlockReader, options?: { readonly label?: string } & AbortOptions): Promise<void>
}

export class Freezer {
  readonly #store: OverlayStore
  readonly #keeper: MapKeeper
  #taken = false

  constructor(store: OverlayStore, keeper: MapKeeper) {
    this.#store = store
    this.#keeper = keeper
  }

  async freeze({ signal }: AbortOptions = {}): Promise<FrozenOverlays> {
    if (this.#taken)
      throw new LifeboatError('session-busy', 'the disks are frozen already', {
        hint: 'Wait until the commit or copy that is under way has ended.',
      })
    const store = this.#store
    this.#taken = true
    try {
      signal?.throwIfAborted()
      if (store.sync.failure !== undefined) throw store.sync.failure
      const image = await this.#keeper.exclusively(() => this.#keeper.save(({ used }) => store.space.freeze(used)))
      const share = { data: store.data, resident: 0, dirty: 0 }
      const maps = store.disks.map(({ index, name, base }, n) => new DiskMap(index, name, base, share, image.disks[n]))
      return new Frozen(store, this.#keeper, maps, () => this.#thaw())
    } catch (error) {
      this.#thaw()
      throw error
    }
  }

  #thaw(): void {
    this.#taken = false
    this.#store.space.thaw()
  }
}

class Frozen implements FrozenOverlays {
  readonly #store: OverlayStore
  readonly #keeper: MapKeeper
  readonly #maps: readonly DiskMap[]
  readonly #thaw: () => void
  #ended = false
  #dropped = false

  constructor(store: OverlayStore, keeper: MapKeeper, maps: readonly DiskMap[], thaw: () => void) {
    this.#store = store
    this.#keeper = keeper
    this.#maps = maps
    this.#thaw = thaw
  }

  disk(name: string): FrozenDisk {
    const map = this.#maps.find(one => one.name === name)
    if (map === undefined) throw new LifeboatError('no-such-disk', `the overlay has no disk ${name}`)
    const { data } = this.#store
    const alive = () => {
      if (this.#ended) throw new LifeboatError('internal', 'the freeze has ended')
    }
    const check = (offset: number, length: number) => {
      alive()
      if (offset < 0 || length < 0 || offset + length > map.size)
        throw new RangeError(`${offset}+${length} is outside the ${map.size} bytes of the device`)
    }
    const image: BlockReader = {
      size: map.size,
      blockSize: BLOCK,
      async readInto(target, offset, options = {}) {
        check(offset, target.length)
        await readMapped(map, data, target, offset, options)
      },
      extents(range, options = {}) {
        check(range.offset, range.length)
        return mapExtents(map, range, options)
      },
      [Symbol.asyncDispose]: async () => {},
    }
    return { image, written: writtenOf(map) }
  }

  async settle(base: (name: string) => BlockReader, options: { label?: string } & AbortOptions = {}): Promise<void> {
    if (this.#ended) throw new LifeboatError('internal', 'the freeze has ended')
    const store = this.#store
    const bases = this.#maps.map(({ name, size }) => {
      const reader = base(name)
      if (reader.size !== size) throw new LifeboatError('internal', `the new base of ${name} has another size`)
      return reader
    })
    options.signal?.throwIfAborted()
    await this.#keeper.exclusively(async () => {
      // Nothing is dropped before this: what is not in the overlay is the same below, before and after.
      for (const [n, map] of store.disks.entries()) map.base = bases[n]!
      if (options.label !== undefined) this.#keeper.relabel(options.label)
      this.#dropped = true
      for (const [n, map] of store.disks.entries()) await this.#drop(this.#maps[n]!, map)
      // From here on every map that is stored is the new state. What the freeze keeps, it keeps until one is durable.
      await this.#keeper.save()
      this.#dropped = false
      this.#end()
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // A settle that failed has left a state on the disk that still names what the freeze keeps.
    if (this.#dropped) await this.#keeper.exclusively(() => this.#keeper.save())
    this.#end()
  }

  #end(): void {
    if (!this.#ended) this.#thaw()
    this.#ended = true
  }

  /** Takes out of a disk's map what it still has in common with the frozen one. */
  async #drop(frozen: DiskMap, live: DiskMap): Promise<void> {
    const store = this.#store
    const pages: number[] = []
    for (let page = 0; page < frozen.locations.length; page++) if (frozen.locations[page] !== BELOW) pages.push(page)
    for (let at = 0; at < pages.length; at += limits.overlayPagesPerRead) {
      const some = pages.slice(at, at + limits.overlayPagesPerRead)
      const changed = some.filter(page => !isUnchanged(frozen, live, page))
      await frozen.load(changed)
      await store.alone(async () => {
        while (changed.some(page => live.page(page) === undefined)) await live.load(changed)
        for (const page of some)
          if (isUnchanged(frozen, live, page)) {
            const detached = live.detach(page, BELOW)
            if (detached !== undefined) store.reclaimer.add(detached)
          } else {
            const was = frozen.page(page)
            if (was === undefined) throw new LifeboatError('internal', 'a frozen page is gone')
            this.#dropEqual(was, live, page)
          }
      })
      frozen.evict()
    }
  }

  #dropEqual(was: MapPage, live: DiskMap, page: number): void {
    for (let n = 0; n < PAGE_BLOCKS; n++) {
      const block = page * PAGE_BLOCKS + n
      const location = was.words[2 * n]!
      if (block >= live.blocks || location === BELOW || live.locationOf(block) !== location) continue
      live.set(block, BELOW, 0)
      if (location >= FIRST_SLOT) this.#store.space.free(location - FIRST_SLOT)
    }
  }
}

/** The same page in the same place, and not changed in memory. */
function isUnchanged(frozen: DiskMap, live: DiskMap, page: number): boolean {
  const location = frozen.locations[page]!
  if (live.locations[page] !== location || live.resident.get(page)?.dirty === true) return false
  return location === ZERO || live.checks[page] === frozen.checks[page]
}

function writtenOf(map: DiskMap): readonly Range[] {
  const whole = { offset: 0, length: map.size }
  for (let gap = 0; ; gap = Math.max(2 * MiB, gap * 2)) {
    const ranges: Range[] = []
    for (const range of map.written(whole)) {
      const last = ranges.at(-1)
      if (last !== undefined && range.offset - last.offset - last.length <= gap)
        ranges[ranges.length - 1] = { offset: last.offset, length: range.offset + range.length - last.offset }
      else if (ranges.push(range) > limits.changeRangesMax) break
    }
    if (ranges.length <= limits.changeRangesMax) return mergeRanges(ranges)
  }
}
