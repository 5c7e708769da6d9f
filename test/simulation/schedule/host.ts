/** One process of a walk: its clock, and the store as it sees it. Each request, each page and each sleep is a step. */
import type { Clock } from '../../../src/core/clock.ts'
import { LifeboatError } from '../../../src/core/errors.ts'
import type { AbortOptions } from '../../../src/core/scope.ts'
import type { ObjectInfo, ObjectStore } from '../../../src/storage/object-store.ts'
import type { Dice } from './dice.ts'
import type { Scheduler } from './scheduler.ts'

const MINUTE = 60_000
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR

/** What a host's clock may be off by, and by what it may jump. */
const SKEWS = [0, 0, HOUR, -HOUR, DAY, -DAY]
/** How much later than asked a sleeper may wake: it was paused, or its host was suspended. */
const OVERSLEEPS = [0, 0, 0, 10 * MINUTE, 31 * MINUTE, 61 * MINUTE, 5 * HOUR]
/** A reader's pin lives for 7 days without a refresh: nobody's clock runs ahead of all others by so much. */
const OVERSLEPT_MAX = 3 * DAY

/** What is shared by all hosts of a walk. */
export interface Surroundings {
  readonly scheduler: Scheduler
  readonly dice: Dice
  /** The store itself. */
  readonly store: ObjectStore
  /** Called after each change of the store, before whoever made it goes on. */
  readonly changed: (verb: 'put' | 'delete', key: string) => Promise<void>
  /** Keys as people read them in a story. */
  readonly nameOf: (key: string) => string
  readonly pageKeys: number
  /** Of each request: it fails, and a change may take effect all the same, now or later. */
  readonly lossRate: number
  readonly time: StoreTime
}

/** The store's own clock is right; it is as late as the latest of its hosts. */
export interface StoreTime {
  readonly startedAt: number
  elapsedMs: number
}

export type Loss = 'lands' | 'lands later' | 'never lands'

export interface Host {
  readonly name: string
  readonly clock: Clock
  readonly store: ObjectStore
  /** Makes no step any more; what it had sent may arrive or not. */
  crash(): void
  /** Requests are steps from now on. */
  begin(): void
}

export interface HostOptions {
  readonly name: string
  /** Decides what becomes of a request before it is sent; undefined: it arrives and is answered. */
  readonly loses?: (verb: 'put' | 'delete', key: string) => Loss | undefined
}

export function host(surroundings: Surroundings, { name, loses }: HostOptions): Host {
  const { scheduler, dice, changed, nameOf, pageKeys, lossRate } = surroundings
  const inner = surroundings.store
  const clock = hostClock(surroundings, name)
  const onTheWay = new Set<() => Promise<void>>()
  let isStarted = false

  const step = async (label: string, options: AbortOptions = {}): Promise<void> => {
    if (isStarted) await scheduler.request(name, label, options.signal)
    else options.signal?.throwIfAborted()
  }
  const unanswered = (label: string) => {
    scheduler.note(name, 'no answer comes')
    return new LifeboatError('store-unreachable', `no answer to ${label}`)
  }
  const ask = async <T>(label: string, options: AbortOptions | undefined, answer: () => Promise<T>): Promise<T> => {
    await step(label, options)
    if (isStarted && dice.chance(lossRate)) throw unanswered(label)
    return await answer()
  }
  const change = async (
    verb: 'put' | 'delete',
    key: string,
    options: AbortOptions | undefined,
    effect: () => Promise<unknown>,
  ): Promise<void> => {
    const label = `${verb.toUpperCase()} ${nameOf(key)}`
    const apply = async () => {
      await effect()
      await changed(verb, key)
    }
    onTheWay.add(apply)
    try {
      await step(label, options)
    } catch (error) {
      // Whoever stops waiting does not know what becomes of it.
      if (dice.chance(0.3)) later(label, apply)
      throw error
    } finally {
      onTheWay.delete(apply)
    }
    const loss = isStarted ? (loses?.(verb, key) ?? drawLoss()) : undefined
    if (loss === undefined || loss === 'lands') await apply()
    if (loss === 'lands later') later(label, apply)
    if (loss !== undefined) throw unanswered(label)
  }
  const later = (label: string, apply: () => Promise<void>) =>
    scheduler.late(`${label} of ${name} lands after all`, () => void apply())
  const drawLoss = (): Loss | undefined =>
    dice.chance(lossRate) ? dice.pick(['lands', 'lands later', 'never lands'] as const) : undefined

  const store: ObjectStore = {
    ...inner,
    get: (key, range, options) => ask(`GET ${nameOf(key)}`, options, () => inner.get(key, range)),
    head: (key, options) => ask(`HEAD ${nameOf(key)}`, options, () => inner.head(key)),
    async put(key, body, options) {
      const bytes = body.map(part => part.slice())
      await change('put', key, options, () => inner.put(key, bytes))
      return {}
    },
    async *list(prefix, { startAfter = '', signal } = {}) {
      for (let after = startAfter; ; ) {
        const asked = `LIST ${prefix}${after === '' ? '' : ` after ${nameOf(after)}`}`
        const page = await ask(asked, { signal }, () => pageOf(inner, prefix, after, pageKeys))
        if (isStarted) scheduler.note(name, page.map(({ key }) => nameOf(key)).join(' ') || 'nothing')
        yield* page
        if (page.length < pageKeys) return
        after = page.at(-1)!.key
      }
    },
    async delete(keys, options) {
      // In no order, says the contract.
      const left = [...keys]
      while (left.length > 0) {
        const [key] = left.splice(dice.roll(left.length), 1)
        await change('delete', key!, options, () => inner.delete([key!]))
      }
    },
    now: async () => new Date(surroundings.time.startedAt + surroundings.time.elapsedMs),
  }

  return {
    name,
    clock,
    store,
    begin: () => {
      isStarted = true
    },
    crash() {
      scheduler.crash(name)
      for (const apply of onTheWay) if (dice.chance(0.5)) later(`a request`, apply)
    },
  }
}

async function pageOf(store: ObjectStore, prefix: string, startAfter: string, count: number): Promise<ObjectInfo[]> {
  const page: ObjectInfo[] = []
  for await (const info of store.list(prefix, { startAfter })) {
    page.push(info)
    if (page.length === count) break
  }
  return page
}

/** Its wall clock is wrong and jumps; the other one goes on only when a sleep ends, and then perhaps by more than was asked. */
function hostClock({ scheduler, dice, time }: Surroundings, name: string): Clock {
  let elapsedMs = 0
  let oversleptMs = 0
  let skewMs = dice.pick(SKEWS)
  return {
    now: () => new Date(time.startedAt + elapsedMs + skewMs),
    monotonicMs: () => elapsedMs,
    async sleep(ms, { signal } = {}) {
      const until = elapsedMs + ms
      await scheduler.sleep(name, `${duration(ms)} have passed`, signal)
      const late = oversleptMs < OVERSLEPT_MAX ? dice.pick(OVERSLEEPS) : 0
      oversleptMs += late
      elapsedMs = Math.max(elapsedMs, until) + late
      time.elapsedMs = Math.max(time.elapsedMs, elapsedMs)
      if (late > 0) scheduler.note(name, `and ${duration(late)} more`)
      if (dice.chance(0.2)) skewMs = dice.pick(SKEWS)
    },
  }
}

function duration(ms: number): string {
  if (ms < MINUTE) return `${ms / 1000} s`
  return ms < HOUR ? `${ms / MINUTE} min` : `${ms / HOUR} h`
}
