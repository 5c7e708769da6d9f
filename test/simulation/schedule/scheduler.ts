/**
 * Runs processes one step at a time. A step is one request to the store, one sleep that ends, or one request that was
 * believed lost and takes effect after all; which comes next is the strategy's choice. Between two steps every process has run
 * on until it waits for the next one, so that a walk is told by its choices alone.
 */
import type { Dice } from './dice.ts'

/** Something that waits until it is chosen. */
interface Waiting {
  readonly process: string
  readonly kind: 'request' | 'sleep' | 'late'
  readonly label: string
  go(): void
}

/** Processes that could make a step now: with requests, or with nothing but sleeps. */
export interface Ready {
  readonly name: string
  readonly kind: 'requests' | 'sleeping' | 'late'
  /** What it would do next: one of these. */
  readonly labels: readonly string[]
}

export interface Strategy {
  /** Which of these goes on; none: the walk waits for ever. */
  choose(ready: readonly Ready[], step: number): Ready | undefined
  /** Whether a process that has requests lets one of its sleeps end first. */
  readonly tick: number
}

export class Scheduler {
  readonly story: string[] = []
  readonly #dice: Dice
  strategy: Strategy
  readonly #stepsMax: number
  readonly #crashed = new Set<string>()
  #waiting: Waiting[] = []
  #stopped: string | undefined

  constructor({ dice, strategy, stepsMax }: { dice: Dice; strategy: Strategy; stepsMax: number }) {
    this.#dice = dice
    this.strategy = strategy
    this.#stepsMax = stepsMax
  }

  get steps(): number {
    return this.story.length
  }

  /** Resolves when the step is chosen; rejects with the signal's reason. Of a crashed process it never settles. */
  request(process: string, label: string, signal?: AbortSignal): Promise<void> {
    return this.#wait(process, 'request', label, signal)
  }

  sleep(process: string, label: string, signal?: AbortSignal): Promise<void> {
    return this.#wait(process, 'sleep', label, signal)
  }

  /** What takes effect some time, whoever has ended meanwhile. */
  late(label: string, effect: () => void): void {
    this.#waiting.push({ process: 'network', kind: 'late', label, go: effect })
  }

  note(process: string, what: string): void {
    this.story[this.story.length - 1] += `   [${process}: ${what}]`
  }

  /** From now on it makes no step. Gives what it was about to do. */
  crash(process: string): void {
    this.#crashed.add(process)
    this.story.push(`${process} dies`)
    this.#waiting = this.#waiting.filter(waiting => waiting.process !== process)
  }

  isCrashed = (process: string): boolean => this.#crashed.has(process)

  /** Ends the walk after this step. */
  stop(why: string): void {
    this.#stopped ??= why
  }

  get stopped(): string | undefined {
    return this.#stopped
  }

  /** Until nothing waits any more, or the walk was stopped. `before` is called before each choice. */
  async run(before: (step: number) => void = () => {}): Promise<void> {
    for (;;) {
      await everybodyWaits()
      if (this.#stopped !== undefined) return
      before(this.steps)
      const next = this.#choose()
      if (!next) return
      if (this.steps >= this.#stepsMax) return this.stop(`livelock: more than ${this.#stepsMax} steps`)
      this.#waiting.splice(this.#waiting.indexOf(next), 1)
      this.story.push(next.kind === 'late' ? next.label : `${next.process}: ${next.label}`)
      next.go()
    }
  }

  #choose(): Waiting | undefined {
    const ready: Ready[] = []
    for (const [name, waiting] of Map.groupBy(this.#waiting, ({ process }) => process)) {
      const kind = name === 'network' ? 'late' : waiting.some(w => w.kind === 'request') ? 'requests' : 'sleeping'
      ready.push({ name, kind, labels: waiting.map(({ label }) => label) })
    }
    const chosen = ready.length > 0 ? this.strategy.choose(ready, this.steps) : undefined
    if (!chosen) return undefined
    const own = this.#waiting.filter(({ process }) => process === chosen.name)
    const requests = own.filter(({ kind }) => kind !== 'sleep')
    const sleeps = own.filter(({ kind }) => kind === 'sleep')
    const isTick = requests.length === 0 || (sleeps.length > 0 && this.#dice.chance(this.strategy.tick))
    return this.#dice.pick(isTick ? sleeps : requests)
  }

  #wait(process: string, kind: Waiting['kind'], label: string, signal?: AbortSignal): Promise<void> {
    if (signal?.aborted) return Promise.reject(signal.reason)
    if (this.#crashed.has(process)) return new Promise(() => {})
    return new Promise((resolve, reject) => {
      const onAbort = () => {
        const at = this.#waiting.indexOf(waiting)
        if (at >= 0) this.#waiting.splice(at, 1)
        reject(signal?.reason)
      }
      const go = () => {
        signal?.removeEventListener('abort', onAbort)
        resolve()
      }
      const waiting = { process, kind, label, go }
      signal?.addEventListener('abort', onAbort, { once: true })
      this.#waiting.push(waiting)
    })
  }
}

/** Everything that runs is promises: when the event loop turns, all have come to their next step. */
const everybodyWaits = (): Promise<void> => new Promise(resolve => setImmediate(resolve))
