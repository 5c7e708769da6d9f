/** A store that answers as bad networks, caches and disks do, by a seed: errors, half and wrong bodies, stale absence, late listings. */
import type { Random } from '../../src/core/random.ts'
import { faulty } from '../../src/storage/faulty.ts'
import type { ObjectInfo, ObjectStore } from '../../src/storage/object-store.ts'
import { absent } from '../../src/storage/store-errors.ts'

export interface Unreliable extends ObjectStore {
  /** What was done, by kind. */
  readonly fired: ReadonlyMap<string, number>
}

export interface UnreliableOptions {
  readonly random: Random
  /** Of each request. */
  readonly probability: number
  /** Folders whose listings may miss what was stored last, twice at most for each object. */
  readonly late?: readonly string[]
}

const LATE_MAX = 2

export function unreliable(inner: ObjectStore, { random, probability, late = [] }: UnreliableOptions): Unreliable {
  const fired = new Map<string, number>()
  const missed = new Map<string, number>()
  const isDue = (): boolean => {
    const [low = 0, high = 0] = random(2)
    return high * 256 + low < probability * 65_536
  }
  const isHit = (kind: string): boolean => {
    const isHit = isDue()
    if (isHit) fired.set(kind, (fired.get(kind) ?? 0) + 1)
    return isHit
  }
  const bad: ObjectStore = {
    ...inner,
    async get(key, range, options) {
      if (isHit('404 once')) throw absent(key)
      const bytes = await inner.get(key, range, options)
      if (bytes.length > 0 && isHit('wrong bytes')) bytes[Math.floor(bytes.length / 2)]! ^= 1
      return bytes
    },
    head: async (key, options) => (isHit('404 once') ? undefined : inner.head(key, options)),
    async *list(prefix, options) {
      const found = await Array.fromAsync(inner.list(prefix, options))
      const newest = found.reduce<ObjectInfo | undefined>(
        (last, next) => (last && last.modifiedAt > next.modifiedAt ? last : next),
        undefined,
      )
      const times = missed.get(newest?.key ?? '') ?? 0
      const isLate =
        newest && late.some(folder => prefix.startsWith(folder)) && times < LATE_MAX && isHit('late listing')
      if (isLate) missed.set(newest.key, times + 1)
      yield* isLate ? found.filter(({ key }) => key !== newest.key) : found
    },
  }
  const failing = faulty(bad, {
    seeded: {
      random,
      probability,
      faults: [
        { kind: 'error' },
        { kind: 'error-after' },
        { kind: 'short-body' },
        { kind: 'error', retry: 'permanent' },
      ],
    },
  })
  return {
    ...failing,
    get fired() {
      const all = new Map(fired)
      for (const { fault } of failing.fired) all.set(fault.kind, (all.get(fault.kind) ?? 0) + 1)
      return all
    },
  }
}
