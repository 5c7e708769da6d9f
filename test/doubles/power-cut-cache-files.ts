/**
 * Files in memory beneath the cache on disk, of a host whose power fails. The cache syncs nothing: what the host itself has written
 * back by then is kept, of the rest each 512 bytes came through or not, in any order, and where they did not, a disk may show what
 * an older file had at that place. On a drive that lies nothing was written back, and names come and go in any order.
 */
import type { CacheFiles, SegmentFile, SegmentStatus } from '../../src/cache/disk-cache-files.ts'
import type { Clock } from '../../src/core/clock.ts'
import { type Draw, Inode, owned } from './power-cut-inode.ts'

const BLOCK = 4096

class Stored extends Inode {
  modifiedMs: number
  /** Blocks that take room on the disk; the rest are holes. */
  readonly taken = new Set<number>()
  /** An older file, whose blocks this one got. */
  readonly before: Stored | undefined
  isUnreadable = false

  constructor(modifiedMs: number, before: Stored | undefined) {
    super()
    this.modifiedMs = modifiedMs
    this.before = before
  }
}

type Names = Map<string, Stored>

export class PowerCutCacheFiles {
  readonly injected = {
    cuts: 0,
    kills: 0,
    sectorsLost: 0,
    sectorsKept: 0,
    namesUndone: 0,
    staleSectors: 0,
    writeBacksForgotten: 0,
    unreadableFiles: 0,
    writesFailed: 0,
  }
  /** The most that all named files took of the disk when one of them was written to. */
  mostTaken = 0
  /** A write fails with this probability, having stored a part. */
  failing = 0
  isLiar = false
  readonly #draw: Draw
  readonly #clock: Clock
  #names: Names = new Map()
  #durableNames: Names = new Map()
  #nameChanges: ((names: Names) => void)[] = []
  #removed: Stored[] = []
  #life = 0

  constructor(draw: Draw, clock: Clock) {
    this.#draw = draw
    this.#clock = clock
  }

  /** The processes die: what they still wait for never comes; each of their calls may have taken effect or not. */
  kill(): void {
    this.#life++
    this.injected.kills++
  }

  cutPower(): void {
    this.#life++
    this.injected.cuts++
    const kept = Math.floor(this.#draw() * (this.#nameChanges.length + 1))
    for (const [n, change] of this.#nameChanges.entries()) {
      if (this.isLiar ? this.#draw() < 0.5 : n < kept) change(this.#durableNames)
      else this.injected.namesUndone++
    }
    this.#nameChanges = []
    this.#names = new Map(this.#durableNames)
    for (const stored of this.#names.values()) this.#cut(stored)
  }

  /** Of all files, by their lengths. */
  get bytes(): number {
    return [...this.#names.values()].reduce((sum, { bytes }) => sum + bytes.length, 0)
  }

  /** As one process sees them, until it dies. */
  files(): CacheFiles {
    const life = this.#life
    const call = async <T>(work: () => T): Promise<T> => {
      for (let turns = Math.floor(this.#draw() * 3); turns > 0; turns--) await Promise.resolve()
      if (this.#draw() < 0.1) await new Promise(resolve => setImmediate(resolve))
      if (life !== this.#life) return new Promise<T>(() => {})
      this.#writeBackNowAndThen()
      const result = work()
      await Promise.resolve()
      return life === this.#life ? result : new Promise<T>(() => {})
    }
    const named = (change: (names: Names) => void) => {
      change(this.#names)
      this.#nameChanges.push(change)
    }
    const known = (path: string): Stored => this.#names.get(path) ?? failure('ENOENT', path)
    return {
      ownFolder: () => call(() => {}),
      names: () => call(() => [...this.#names.keys()].map(path => path.slice(path.lastIndexOf('/') + 1))),
      status: path => call(() => this.#status(known(path))),
      create: (path, size) =>
        call(() => {
          if (this.#names.has(path)) failure('EEXIST', path)
          const before = this.#removed[Math.floor(this.#draw() * this.#removed.length)]
          const stored = new Stored(this.#clock.now().getTime(), this.#draw() < 0.5 ? before : undefined)
          stored.apply({ size })
          // Most filesystems commit a name and a length together.
          if (this.#draw() < 0.8) stored.sync(1)
          named(names => names.set(path, stored))
          return this.#file(stored, call)
        }),
      open: path => call(() => this.#file(known(path), call)),
      touch: (path, at) =>
        call(() => {
          known(path).modifiedMs = at.getTime()
        }),
      unlink: path =>
        call(() => {
          this.#removed = [...this.#removed.slice(-8), known(path)]
          named(names => names.delete(path))
        }),
      space: () => call(() => ({ freeBytes: 2 ** 40, totalBytes: 2 ** 41 })),
    }
  }

  #status(stored: Stored): SegmentStatus {
    const links = [...this.#names.values()].filter(other => other === stored).length
    return { size: stored.bytes.length, modifiedMs: stored.modifiedMs, links }
  }

  #file(stored: Stored, call: <T>(work: () => T) => Promise<T>): SegmentFile {
    const write = (bytes: Uint8Array, at: number) => {
      stored.apply({ at, bytes: Buffer.from(bytes) })
      stored.modifiedMs = this.#clock.now().getTime()
      for (let block = Math.floor(at / BLOCK); block * BLOCK < at + bytes.length; block++) stored.taken.add(block)
      let taken = 0
      for (const { taken: blocks } of this.#names.values()) taken += blocks.size * BLOCK
      this.mostTaken = Math.max(this.mostTaken, taken)
    }
    return {
      readAt: (target, position) =>
        call(() => {
          if (stored.isUnreadable && this.#draw() < 0.5) failure('EIO', 'read')
          return stored.bytes.copy(target, 0, position)
        }),
      writeAt: (bytes, position) =>
        call(() => {
          if (this.#draw() >= this.failing) return write(bytes, position)
          this.injected.writesFailed++
          write(bytes.subarray(0, Math.floor(this.#draw() * bytes.length)), position)
          failure('ENOSPC', 'write')
        }),
      status: () => call(() => this.#status(stored)),
      close: () => call(() => {}),
    }
  }

  /** The host does so by itself, each file for its own. */
  #writeBackNowAndThen(): void {
    if (this.#draw() > 0.02) return
    if (this.isLiar) {
      this.injected.writeBacksForgotten++
      return
    }
    for (const stored of this.#names.values())
      if (this.#draw() < 0.5) stored.sync(stored.settled + Math.floor(this.#draw() * (stored.pending.length + 1)))
    if (this.#draw() < 0.5) return
    this.#nameChanges = []
    this.#durableNames = new Map(this.#names)
  }

  #cut(stored: Stored): void {
    const { before, pending } = stored
    if (before)
      for (const change of pending) {
        if ('size' in change) continue
        const old = before.durable.subarray(change.at, change.at + change.bytes.length)
        old.copy(stored.durable, change.at)
        this.injected.staleSectors += Math.ceil(Math.min(old.length, stored.durable.length) / 512)
      }
    stored.durable = owned(stored.durable)
    const { kept, lost } = stored.cut(this.#draw)
    for (const block of stored.taken) if (block * BLOCK >= stored.bytes.length) stored.taken.delete(block)
    this.injected.sectorsKept += kept
    this.injected.sectorsLost += lost
    stored.settled = 0
    stored.isUnreadable = this.#draw() < 0.15
    if (stored.isUnreadable) this.injected.unreadableFiles++
    // A time of change is written back later than anything else, or comes from a clock that was set since.
    if (this.#draw() < 0.3) stored.modifiedMs += Math.floor((this.#draw() - 0.5) * 7_200_000)
  }
}

function failure(code: string, what: string): never {
  throw Object.assign(new Error(`${code}: ${what}`), { code })
}
