/** A LiveSession over what its owner holds. How it was begun is told in boot.ts, export-session.ts and stopped-session.ts. */
import type { Clock } from '../core/clock.ts'
import { hex } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { Random } from '../core/random.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { QmpClient } from '../hypervisor/qemu/qmp.ts'
import type { PointSummary, Repository } from '../repository/repository.ts'
import type { OpenedDisks } from './export.ts'
import type { ChangeState, LiveSession, SessionEnd, SessionFigures } from './live-session.ts'
import type { QemuProcess } from './qemu-process.ts'
import { pinsOf, type Session } from './session.ts'
import type { SessionState } from './session-state.ts'
import { step } from './session-step.ts'

export interface SessionParts {
  /** Has a state. Belongs to the owned session from now on, as the rest does. */
  readonly session: Session
  readonly repository: Repository
  readonly opened: OpenedDisks
  readonly clock: Clock
  readonly random: Random
  readonly isServing: boolean
  readonly qemu?: QemuProcess
  readonly qmp?: QmpClient
  /** Besides those of the disks. */
  readonly figures?: () => Readonly<Record<string, number>>
  /** Takes down what was started, QEMU excepted, in order. */
  readonly close: () => Promise<void>
}

export class OwnedSession implements LiveSession {
  readonly #parts: SessionParts
  readonly #ending = new AbortController()
  readonly #published: Promise<void>
  #end: Promise<void> | undefined

  constructor(parts: SessionParts) {
    this.#parts = parts
    this.#published = parts.isServing ? this.#publish() : Promise.resolve()
  }

  get name(): string {
    return this.#parts.session.name
  }
  get folder(): string {
    return this.#parts.session.folder
  }
  get clock(): Clock {
    return this.#parts.clock
  }
  get random(): Random {
    return this.#parts.random
  }
  get repository(): Repository {
    return this.#parts.repository
  }
  get isServing(): boolean {
    return this.#parts.isServing
  }
  get disks() {
    return this.#parts.opened.disks
  }
  get qemu(): QemuProcess | undefined {
    return this.#parts.qemu
  }
  get qmp(): QmpClient | undefined {
    return this.#parts.qmp
  }
  get overlays() {
    return this.#parts.opened.overlays
  }
  /** True from the call of `end` on. */
  get isEnding(): boolean {
    return this.#end !== undefined
  }

  point() {
    return this.#parts.opened.point
  }

  state(): SessionState {
    const state = this.#parts.session.state()
    if (!state) throw new Error(`session ${this.name} has no state`)
    return state
  }

  update(change: ChangeState): Promise<SessionState> {
    return this.#parts.session.update(change)
  }

  figures(): SessionFigures {
    const stats = this.disks.map(disk => disk.stats())
    const sum = (name: 'bytesRead' | 'bytesFetched' | 'bytesFromDisk' | 'cacheHits') =>
      stats.reduce((total, one) => total + one[name], 0)
    return {
      bytesRead: sum('bytesRead'),
      // From the repository; what the cache on disk gave is told apart.
      bytesFetched: sum('bytesFetched') - sum('bytesFromDisk'),
      bytesFromDisk: sum('bytesFromDisk'),
      cacheHits: sum('cacheHits'),
      ...this.#parts.figures?.(),
    }
  }

  async repin(summary: PointSummary, change: ChangeState = state => state, { signal }: AbortOptions = {}) {
    const fresh = hex(this.random(8))
    await this.update(state => ({ ...state, otherPins: [...(state.otherPins ?? []), fresh] }))
    step('pin written down')
    try {
      const next = await this.repository.openPoint(summary, { pin: 'session', newPinId: fresh, signal })
      step('new point pinned')
      await using stack = new AsyncDisposableStack()
      stack.use(next)
      this.#parts.opened.checkPoint(next)
      const old = this.state().point.pin
      await this.update(state => ({
        ...change(state),
        point: {
          id: next.id,
          key: next.key,
          vm: state.point.vm,
          ...(next.pinId !== undefined && { pin: next.pinId }),
        },
        otherPins: old === undefined ? [] : [old],
        // Of the new point nothing is known to be on this host.
        ...(state.hydrate && { figures: { ...state.figures, hydratedBytes: 0 } }),
      }))
      next.keepPin()
      stack.move()
      await this.#parts.opened.replacePoint(next)
    } finally {
      await this.dropOtherPins()
    }
  }

  /** Those that it cannot remove stay written down, for the next owner of the session. */
  async dropOtherPins(): Promise<void> {
    const { point, otherPins = [] } = this.state()
    if (otherPins.length === 0) return
    try {
      for (const pin of otherPins) if (pin !== point.pin) await this.repository.dropPin(pin)
    } catch {
      return
    }
    await this.update(({ otherPins: _, ...state }) => state)
    step('other pins dropped')
  }

  end(how: SessionEnd, stoppedBy?: 'shutdown'): Promise<void> {
    this.#end ??= this.#endAs(how, stoppedBy)
    return this.#end
  }

  async #endAs(how: SessionEnd, stoppedBy: 'shutdown' | undefined): Promise<void> {
    const { session, qemu, close } = this.#parts
    try {
      this.#ending.abort()
      await this.#published
      // First of all: from here on a crash must not make somebody serve, or kill, what has moved.
      if (how === 'discarded') await this.update(state => ({ ...state, state: 'discarding' }))
      if (how === 'migrated') await this.update(state => ({ ...state, state: 'migrated' }))
      if (how === 'migrated') qemu?.release()
      else await (how === 'discarded' ? qemu?.kill() : qemu?.stop())
      step('guest ended')
      const figures = this.figures()
      await close()
      step('servers ended')
      if (how === 'stopped') await this.update(state => stopped(state, figures, stoppedBy))
      else if (how === 'migrated') await this.#dropPinsOfMigrated()
      else {
        await this.#dropPins()
        await session.remove()
      }
    } finally {
      await session[Symbol.asyncDispose]()
    }
  }

  async #dropPins(): Promise<void> {
    for (const pin of pinsOf(this.state())) await this.repository.dropPin(pin)
    step('pins dropped')
  }

  /** A store that is away does not make a move that was made a failure: the pins stay written down, and go with the folder. */
  async #dropPinsOfMigrated(): Promise<void> {
    try {
      await this.#dropPins()
    } catch {
      return
    }
    await this.update(withoutPins)
  }

  /** Keeps the figures in the state file fresh for `session list`, while they change. A full disk costs figures, not the guest. */
  async #publish(): Promise<void> {
    const { signal } = this.#ending
    let last = ''
    while (!signal.aborted) {
      await this.clock.sleep(limits.sessionFiguresMs, { signal }).catch(() => {})
      const figures = this.figures()
      const text = JSON.stringify(figures)
      if (signal.aborted || text === last) continue
      await this.update(state => ({ ...state, figures: { ...state.figures, ...figures } })).catch(() => {})
      last = text
    }
  }
}

const stopped = (
  { pausedFor: _, stoppedBy: __, ...state }: SessionState,
  figures: Readonly<Record<string, number>>,
  stoppedBy: 'shutdown' | undefined,
): SessionState => ({
  ...state,
  state: 'stopped',
  ...(stoppedBy && { stoppedBy }),
  figures: { ...state.figures, ...figures },
})

const withoutPins = ({ point: { pin: _, ...point }, otherPins: __, ...state }: SessionState): SessionState => ({
  ...state,
  point,
})
