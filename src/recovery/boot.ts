/**
 * Boots a point: a session, an export, and QEMU with its overlays. A session that is there is resumed: a QEMU that lives is
 * taken over, and its guest goes on unnoticed; a dead one is started again over overlays that were checked.
 *
 * The order of what is written down is the whole argument: the pin's id before the pin, the overlays before the state that
 * names them, the command line before QEMU starts, QEMU's name before the guest runs. So a crash at any moment leaves what
 * `session list` shows truthfully, and what resume or discard can go on with.
 */
import path from 'node:path'
import type { ChunkCache } from '../cache/chunk-cache.ts'
import { LifeboatError } from '../core/errors.ts'
import { hex } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { PointSummary, Repository } from '../repository/repository.ts'
import type { Accelerator } from './accelerator.ts'
import { isNewMachine, planBoot, recordedPlan } from './boot-plan.ts'
import { checkOverlay } from './check-overlay.ts'
import type { OlderPoints } from './disk-contexts.ts'
import { exportPoint, type RunningExport } from './export.ts'
import type { Exporter } from './exporter.ts'
import { FirstRead } from './first-read.ts'
import { type Guest, startGuest, takeOverGuest } from './guest.ts'
import { watchGuest } from './guest-watch.ts'
import { type HydrateRequest, type Hydration, hydrationOf, keptHydrate } from './hydration.ts'
import type { LiveSession, SessionFigures } from './live-session.ts'
import type { Network } from './qemu-command.ts'
import type { QemuExit } from './qemu-process.ts'
import { createSession, guestOf, openSession, QEMU_LOG, type Session, type SessionPlace } from './session.ts'
import { beginState, pinOf, undo, undoStart } from './session-begin.ts'
import { type SessionCommands, sessionCommands } from './session-commands.ts'
import { hostSession, type SessionHost } from './session-host.ts'
import { refuseAfterPivot, refuseUnresumable } from './session-refusals.ts'
import type { SessionState } from './session-state.ts'
import { step } from './session-step.ts'
import { TracedSession, type VmTraces } from './traced-session.ts'

export interface BootRequest extends AbortOptions, SessionPlace {
  readonly repository: Repository
  readonly point: PointSummary
  readonly session: string
  /** Goes on with a session of that name that nobody serves: its overlays keep what the guest wrote. */
  readonly resume?: boolean
  readonly exporter: Exporter
  readonly cache: ChunkCache
  /** What earlier boots of this VM touched; absent: it is not asked, and not told. */
  readonly traces?: VmTraces
  /** Points that clients of the session's export may ask differences to. */
  readonly older?: OlderPoints
  /** Copies the point to this host; a session that was begun so keeps to it. */
  readonly hydrate?: HydrateRequest
  /** More numbers for the session's state, by name: what was asked of the store. */
  readonly figures?: () => Readonly<Record<string, number>>
  /** What can be asked of the session while it runs. */
  readonly commands?: SessionCommands
  /** Told of what a person should know while it runs. */
  readonly tell?: (message: string) => void
  /** Free space below the overlays with less of which the guest is paused. */
  readonly reserveBytes?: number
  /** Flags that win over the point's description. A session that resumes keeps its machine where there are none. */
  readonly memoryBytes?: number
  readonly cpus?: number
  readonly accelerator?: Accelerator | 'auto'
  readonly network?: Network
  readonly kernel?: string
  readonly append?: string
  readonly extra?: readonly string[]
  readonly program?: string
  /** Of this process: QEMU gets it without our keys and credentials. */
  readonly environment?: Readonly<Record<string, string | undefined>>
  /** A guest that reads nothing for so long (a kernel given by hand may never) is reported without its first read. */
  readonly firstReadTimeoutMs?: number
}

export interface RunningBoot extends AsyncDisposable {
  readonly session: string
  /** For commands that act on the session from within this process. */
  readonly live: LiveSession
  /** True where its guest ran already. */
  readonly isTakenOver: boolean
  readonly pid: number
  readonly qmp: string
  readonly serial: string
  readonly agent: string
  readonly accelerator: string
  /** From the call of bootPoint to the guest's first read; absent when it read nothing in time, or was taken over. */
  readonly secondsToFirstRead?: number
  readonly warnings: readonly string[]
  /** Read by the guest, and fetched from the repository for it, so far. */
  readonly figures: () => SessionFigures
  /** Resolves when QEMU has ended by itself or by `stop`, before the servers go; undefined when a command has ended the session. */
  readonly ended: Promise<QemuExit | undefined>
  /** Ends QEMU, then the servers; the session stays with its overlays and its pin. Dispose does the same. */
  readonly stop: (by?: 'shutdown') => Promise<void>
}

/**
 * Resolves at the guest's first read, or when the guest is taken over. Whatever fails before that is undone, but for what an
 * earlier run of the session wrote, and for a guest that lives.
 */
export async function bootPoint(request: BootRequest): Promise<RunningBoot> {
  const started = request.clock.monotonicMs()
  const session = await (request.resume ? openSession : createSession)(request, request.session)
  const before = session.state()
  try {
    return await new Boot(request, session, started).run()
  } catch (error) {
    // A guest that has read nothing has written nothing worth keeping.
    if (request.resume) await undoStart(session, before)
    else await undo(request.repository, session)
    await session[Symbol.asyncDispose]()
    throw error
  }
}

class Boot {
  readonly #request: BootRequest
  readonly #session: Session
  readonly #started: number
  readonly #firstRead: FirstRead
  readonly #traced: TracedSession
  readonly #hydration: Hydration | undefined

  constructor(request: BootRequest, session: Session, started: number) {
    this.#request = request
    this.#session = session
    this.#started = started
    this.#firstRead = new FirstRead(request.clock)
    this.#traced = new TracedSession({
      traces: request.traces,
      clock: request.clock,
      cacheBytes: request.cache.maxBytes,
      store: request.resume ? 'never' : 'if-better',
    })
    const reserveBytes = request.reserveBytes ?? session.state()?.reserve
    this.#hydration = hydrationOf(session, { ...request, reserveBytes }, () => this.#traced.isBusy)
  }

  async run(): Promise<RunningBoot> {
    const before = this.#session.state()
    if (before) refuseUnresumable(before, 'boot', this.#request.point)
    await using stack = new AsyncDisposableStack()
    const exported = stack.use(await this.#export())
    step('serving')
    stack.use(this.#traced)
    const living = before && (await guestOf(this.#session.folder, before))
    // One that runs has booted.
    if (!living) this.#traced.begin(exported)
    // What a guest has written needs the point, whatever becomes of this server.
    if (before) exported.point.keepPin()
    const { guest, warnings } = await (living ? this.#takeOver(living, before) : this.#start(exported, before))
    stack.defer(() => guest.qmp[Symbol.asyncDispose]())
    this.#hydration?.begin()
    const owned = stack.move()
    const served = await this.#serve(guest, exported, owned).catch(async error => {
      // One that was started here and cannot be served is ended; one that was taken over lives on.
      if (!living) await guest.qemu.stop()
      await owned.disposeAsync()
      throw error
    })
    return this.#running(guest, served, { warnings, isTakenOver: living !== undefined })
  }

  async #export(): Promise<RunningExport> {
    const { repository, point, exporter, cache, older, signal } = this.#request
    const newPinId = hex(this.#request.random(8))
    const hydrate = keptHydrate(this.#request.hydrate)
    await beginState(this.#session, this.#request, { kind: 'boot', newPinId, hydrate })
    return exportPoint({
      repository,
      point,
      exporter,
      cache,
      older,
      signal,
      listen: { socket: this.#session.socketPath('nbd') },
      pin: 'session',
      pinId: this.#session.state()?.point.pin,
      newPinId,
      onRead: (disk, bytes, offset) => {
        this.#firstRead.note(bytes)
        this.#traced.onRead(disk, bytes, offset)
      },
      onWait: this.#traced.onWait,
      hydration: this.#hydration,
    })
  }

  async #start(exported: RunningExport, before: SessionState | undefined) {
    const { signal } = this.#request
    if (before) refuseAfterPivot(before)
    for (const { overlay } of before?.disks ?? []) if (overlay) await checkOverlay(overlay.path, { signal })
    const plan =
      before && !isNewMachine(this.#request)
        ? await recordedPlan(this.#session, before)
        : await planBoot(this.#request, this.#session, exported)
    await this.#session.update(state => ({ ...state, ...plan.changes, ...pinOf(state, exported), state: 'starting' }))
    step('command line written down')
    const guest = await startGuest(this.#guestRequest(plan.changes.qemu))
    exported.point.keepPin()
    return { guest, warnings: [...this.#pinWarnings(exported), ...plan.warnings] }
  }

  async #takeOver(living: { pid: number; start: number }, state: SessionState) {
    const { qemu } = state
    if (!qemu) throw new LifeboatError('session-damaged', `session ${state.name} has a QEMU and no words about it`)
    const guest = await takeOverGuest(living, this.#guestRequest(qemu))
    await this.#written(guest.qemu)
    const ignored = isNewMachine(this.#request)
      ? ['the guest runs already: flags about the machine change nothing']
      : []
    return { guest, warnings: ignored }
  }

  #guestRequest({ program, arguments: words }: NonNullable<SessionState['qemu']>) {
    const { clock, signal, environment, firstReadTimeoutMs } = this.#request
    return {
      environment,
      program,
      arguments: words,
      socket: this.#session.socketPath('control'),
      log: path.join(this.#session.folder, QEMU_LOG),
      clock,
      signal,
      firstRead: this.#firstRead,
      firstReadTimeoutMs,
      onStarted: (process: { readonly pid: number; readonly start: number }) => this.#written(process),
    }
  }

  #written({ pid, start }: { readonly pid: number; readonly start: number }): Promise<SessionState> {
    return this.#session.update(state => ({
      ...state,
      ...(state.qemu && { qemu: { ...state.qemu, process: { pid, start } } }),
    }))
  }

  async #serve(guest: Guest, exported: RunningExport, stack: AsyncDisposableStack): Promise<SessionHost> {
    const { repository, clock, random, tell = () => {}, reserveBytes, commands = sessionCommands } = this.#request
    const session = this.#session
    const reserve = reserveBytes ?? session.state()?.reserve ?? limits.sessionReserveBytes
    const { firstReadAt } = guest
    await session.update(({ stoppedBy: _, ...state }) => ({
      ...state,
      ...pinOf(state, exported),
      state: 'running',
      reserve,
      figures: { ...(firstReadAt !== undefined && { secondsToFirstRead: this.#secondsTo(firstReadAt) }) },
    }))
    const watching = new AbortController()
    const watched = watchGuest({
      qmp: guest.qmp,
      folder: session.folder,
      log: path.join(session.folder, QEMU_LOG),
      reserve,
      state: session.state,
      update: session.update,
      tell,
      clock,
      signal: watching.signal,
    })
    stack.defer(async () => {
      watching.abort()
      await watched
    })
    const figures = () => ({
      ...this.#request.figures?.(),
      ...this.#traced.figures(),
      ...this.#hydration?.figures(),
      bytesRead: this.#firstRead.bytes,
    })
    const close = () => stack.disposeAsync()
    const { qemu, qmp } = guest
    return hostSession({ session, repository, opened: exported, clock, random, qemu, qmp, figures, close }, commands)
  }

  #secondsTo(firstReadAt: number): number {
    return (firstReadAt - this.#started) / 1000
  }

  #pinWarnings({ point }: RunningExport): string[] {
    return point.pinned ? [] : ['the point could not be pinned: it is safe from gc for its grace only']
  }

  #running(
    { qemu, firstReadAt }: Guest,
    { live, ended, stop }: SessionHost,
    more: { readonly warnings: readonly string[]; readonly isTakenOver: boolean },
  ): RunningBoot {
    const session = this.#session
    return {
      session: session.name,
      live,
      ...more,
      pid: qemu.pid,
      qmp: session.socketPath('qmp'),
      serial: session.socketPath('serial'),
      agent: session.socketPath('agent'),
      accelerator: session.state()?.qemu?.accelerator ?? '',
      ...(firstReadAt !== undefined && { secondsToFirstRead: this.#secondsTo(firstReadAt) }),
      figures: () => live.figures(),
      ended,
      stop,
      [Symbol.asyncDispose]: () => stop(),
    }
  }
}
