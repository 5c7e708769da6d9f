/**
 * Looks after the guest of a session while it runs: pauses it when the space below its overlays runs out, lets it go on when
 * there is space again, and lets a guest go on that QEMU itself has stopped over an I/O error (rerror=stop, werror=stop): a
 * disk that was full, or a repository that was away for longer than QEMU waits. QEMU takes up a lost connection in steps of up
 * to 16 s, so that the first tries may fail: it is tried until it holds. A guest that somebody else has paused is left alone.
 */
import { statfs } from 'node:fs/promises'
import type { Clock } from '../core/clock.ts'
import { isLifeboatError, messageOf } from '../core/errors.ts'
import { limits, MiB } from '../core/limits.ts'
import type { QmpClient } from '../hypervisor/qemu/qmp.ts'
import type { ChangeState } from './live-session.ts'
import { cutLog } from './qemu-process.ts'
import type { SessionState } from './session-state.ts'

export interface WatchedGuest {
  readonly qmp: QmpClient
  /** Where the overlays lie. */
  readonly folder: string
  readonly log: string
  /** Bytes that must stay free there. */
  readonly reserve: number
  readonly state: () => SessionState | undefined
  readonly update: (change: ChangeState) => Promise<unknown>
  /** For the person who looks at the session. */
  readonly tell: (message: string) => void
  readonly clock: Clock
  readonly signal: AbortSignal
}

/** Resolves when the signal falls or QEMU has gone; never rejects. */
export async function watchGuest(guest: WatchedGuest): Promise<void> {
  const { qmp, log, clock, signal } = guest
  const watch = new GuestWatch(guest)
  let trouble = ''
  while (!signal.aborted && !qmp.isClosed) {
    try {
      await watch.look()
      await cutLog(log)
    } catch (error) {
      // QEMU's main loop may wait for a disk longer than a command may take; the next look finds out.
      const found = isLifeboatError(error) ? trouble : messageOf(error)
      if (!signal.aborted && found !== trouble) guest.tell(`the guest cannot be watched: ${found}`)
      trouble = found
    }
    await clock.sleep(limits.guestWatchMs, { signal }).catch(() => {})
  }
}

class GuestWatch {
  readonly #guest: WatchedGuest
  #isFailing = false
  /** Holds where the disk is too full for the state file. */
  #isPaused = false

  constructor(guest: WatchedGuest) {
    this.#guest = guest
  }

  async look(): Promise<void> {
    const { folder, reserve, state } = this.#guest
    const { bavail, bsize } = await statfs(folder)
    const free = bavail * bsize
    // A little more to go on than to stop, so that it does not do both each second.
    const isPaused = this.#isPaused || state()?.pausedFor === 'space'
    const hasSpace = free >= (isPaused || this.#isFailing ? reserve + reserve / 16 : reserve)
    const status = await this.#status()
    if (status === 'running') {
      if (this.#isFailing) this.#guest.tell('the guest goes on')
      this.#isFailing = false
      if (!hasSpace) await this.#pause(free)
      // The mark of an earlier pause that somebody else has ended.
      else if (isPaused) await this.#unmark()
    } else if (status === 'paused' && isPaused) {
      if (hasSpace) await this.#letGoOn(free)
    } else if (status === 'io-error') await this.#retry(hasSpace, free)
  }

  async #status(): Promise<string | undefined> {
    const { qmp, signal } = this.#guest
    const answer = await qmp.execute('query-status', undefined, { signal })
    const status = typeof answer === 'object' && answer !== null && 'status' in answer ? answer.status : undefined
    return typeof status === 'string' ? status : undefined
  }

  async #pause(free: number): Promise<void> {
    const { qmp, update, reserve, folder, signal } = this.#guest
    // Written down first: a later owner must know who has stopped the guest. On a disk without a free block it is stopped all the same.
    this.#isPaused = true
    await update(state => ({ ...state, pausedFor: 'space' })).catch(() => {})
    await qmp.execute('stop', undefined, { signal })
    this.#guest.tell(
      `the guest is paused: ${inMiB(free)} are free in ${folder}, ${inMiB(reserve)} are to stay free. It goes on when there is space again`,
    )
  }

  async #letGoOn(free: number): Promise<void> {
    const { qmp, signal } = this.#guest
    await qmp.execute('cont', undefined, { signal })
    await this.#unmark()
    this.#guest.tell(`the guest goes on: ${inMiB(free)} are free`)
  }

  async #unmark(): Promise<void> {
    this.#isPaused = false
    await this.#guest.update(({ pausedFor: _, ...state }) => state)
  }

  async #retry(hasSpace: boolean, free: number): Promise<void> {
    const { qmp, folder, signal } = this.#guest
    if (!this.#isFailing)
      this.#guest.tell(
        hasSpace
          ? 'QEMU has stopped the guest over an I/O error: it is tried again every second'
          : `QEMU has stopped the guest: ${inMiB(free)} are free in ${folder}. It goes on when there is space again`,
      )
    this.#isFailing = true
    if (hasSpace) await qmp.execute('cont', undefined, { signal })
  }
}

const inMiB = (bytes: number): string => `${Math.floor(bytes / MiB)} MiB`
