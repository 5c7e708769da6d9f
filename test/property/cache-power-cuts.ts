/** Two processes on one cache until the power goes or they are killed, and what the next two find there. */
import assert from 'node:assert/strict'
import { type DiskCache, openDiskCache } from '../../src/cache/disk-cache.ts'
import { seededRandom } from '../../src/core/random.ts'
import type { RecordName } from '../../src/repository/record-cache.ts'
import { recordNumber } from '../doubles/kept-record.ts'
import { manualClock } from '../doubles/manual-clock.ts'
import { patternBytes } from '../doubles/pattern.ts'
import { PowerCutCacheFiles } from '../doubles/power-cut-cache-files.ts'
import { type Draw, drawing } from '../doubles/power-cut-inode.ts'

/** Four of the smallest segments. */
const MAX_BYTES = 1024 * 1024
const RECORDS = 250

export interface CacheCutResult {
  readonly injected: PowerCutCacheFiles['injected']
  /** Of records, after a cut and while two processes work. */
  right: number
  absent: number
  wrong: number
  /** Reads that threw, and caches that did not open. */
  failed: number
  /** Records whose checks failed, and reads that the disk failed, as the cache counts them. */
  damaged: number
  readFailures: number
  /** Openings that found files longer together than the bound, and those after which they still were. */
  tooLong: number
  beyond: number
  /** The most that files with names took of the disk at any write. */
  mostTaken: number
  readonly maxBytes: number
}

const storedNumber = (number: number): Uint8Array =>
  patternBytes(100 + ((number * 7919) % 9_000), number * 2_654_435_761)
const STORED = Array.from({ length: RECORDS }, (_, number) => storedNumber(number))
const ALL = Array.from({ length: RECORDS }, (_, number) => number)
const NAMES: readonly RecordName[] = STORED.map((_, number) => recordNumber(number))

/** Some lives of a host, each ended by a power cut or by a kill of all processes. */
async function story(seed: number, lives: number, total: CacheCutResult): Promise<void> {
  const draw = drawing(seed)
  const clock = manualClock('2026-01-02T03:04:05.000Z')
  const host = new PowerCutCacheFiles(draw, clock)
  host.isLiar = draw() < 0.3
  const random = seededRandom(`names of ${seed}`)
  for (let life = 0; life < lives; life++) {
    host.failing = draw() < 0.2 ? 0.02 : 0
    const caches: DiskCache[] = []
    for (let n = 0; n < 2; n++) {
      const cache = await openDiskCache({ folder: '/c', maxBytes: MAX_BYTES, clock, random, files: host.files() })
      if (cache) caches.push(cache)
      else total.failed++
    }
    for (const cache of caches) await cache.refresh()
    if (host.bytes > MAX_BYTES) total.tooLong++
    for (let turns = 0; host.bytes > MAX_BYTES && turns < 2_000; turns++) await new Promise(setImmediate)
    if (host.bytes > MAX_BYTES) total.beyond++
    const [one, other] = caches
    if (life > 0 && one) await read(one, ALL, total)
    if (life > 0 && other) await read(other, ALL.slice(0, RECORDS / 5), total)
    let alive = true
    const work = caches.map(cache => use(cache, () => alive, draw, total))
    for (let turns = 5 + Math.floor(draw() * 120); turns > 0; turns--)
      await (draw() < 0.3 ? new Promise(resolve => setImmediate(resolve)) : Promise.resolve())
    if (draw() < 0.2) await clock.advance(120_000)
    alive = false
    void work
    if (draw() < 0.75) host.cutPower()
    else host.kill()
    for (const cache of caches) {
      const { damaged, readFailures } = cache.figures()
      total.damaged += damaged
      total.readFailures += readFailures
    }
  }
  for (const key of Object.keys(host.injected) as (keyof typeof host.injected)[])
    total.injected[key] += host.injected[key]
  total.mostTaken = Math.max(total.mostTaken, host.mostTaken)
}

/** Reads and keeps, as a reader does who fetches what he does not find. */
async function use(cache: DiskCache, isAlive: () => boolean, draw: Draw, total: CacheCutResult): Promise<void> {
  while (isAlive()) {
    const first = Math.floor(draw() * RECORDS)
    const numbers = Array.from({ length: 1 + Math.floor(draw() * 12) }, (_, n) => (first + n) % RECORDS)
    const found = await read(cache, numbers, total)
    for (const [n, number] of numbers.entries()) if (!found[n]) cache.keep(NAMES[number]!, STORED[number]!)
    if (draw() < 0.2) await cache.settled()
    if (draw() < 0.05) await cache.refresh()
  }
}

async function read(cache: DiskCache, numbers: readonly number[], total: CacheCutResult) {
  let found: readonly (Uint8Array | undefined)[] = []
  try {
    found = await cache.read(numbers.map(number => NAMES[number]!))
  } catch {
    total.failed++
  }
  for (const [n, number] of numbers.entries()) {
    const bytes = found[n]
    if (!bytes) total.absent++
    else total[Buffer.compare(bytes, STORED[number]!) === 0 ? 'right' : 'wrong']++
  }
  return found
}

export async function cachePowerCuts(first: number, stories: number, lives: number): Promise<CacheCutResult> {
  const { injected } = new PowerCutCacheFiles(drawing(0), manualClock())
  const total: CacheCutResult = {
    injected,
    right: 0,
    absent: 0,
    wrong: 0,
    failed: 0,
    damaged: 0,
    readFailures: 0,
    tooLong: 0,
    beyond: 0,
    mostTaken: 0,
    maxBytes: MAX_BYTES,
  }
  for (let seed = first; seed < first + stories; seed++) {
    await story(seed, lives, total)
    assert.equal(total.wrong, 0, `a wrong byte in story ${seed}`)
  }
  return total
}
