import type { ChunkCache } from '../cache/chunk-cache.ts'
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { connectQmp } from '../hypervisor/qemu/qmp.ts'
import { startOf } from '../hypervisor/run-lock.ts'
import type { PointSummary, Repository } from '../repository/repository.ts'
import type { Accelerator } from './accelerator.ts'
import { planBoot } from './boot-plan.ts'
import { exportPoint, type RunningExport } from './export.ts'
import type { Exporter } from './exporter.ts'
import { FirstRead } from './first-read.ts'
import type { Network } from './qemu-command.ts'
import { type QemuExit, type QemuProcess, qemuFailed, startQemu } from './qemu-process.ts'
import { createSession, openSession, type Session, type SessionPlace } from './session.ts'
import type { SessionState } from './session-state.ts'

export interface BootRequest extends AbortOptions, SessionPlace {
  readonly repository: Repository
  readonly point: PointSummary
  readonly session: string
  /** Goes on with a stopped session of that name: its overlays keep what the guest wrote. */
  readonly resume?: boolean
  readonly exporter: Exporter
  readonly cache: ChunkCache
  /** More numbers for the session's state, by name: what was asked of the store. */
  readonly figures?: () => Readonly<Record<string, number>>
  /** Flags that win over the point's description. */
  readonly memoryBytes?: number
  readonly cpus?: number
  readonly accelerator?: Accelerator | 'auto'
  readonly network?: Network
  readonly kernel?: string
  readonly append?: string
  readonly extra?: readonly string[]
  readonly program?: string
  /** A guest that reads nothing for so long (a kernel given by hand may never) is reported without its first read. */
  readonly firstReadTimeoutMs?: number
}

export interface BootFigures {
  readonly bytesRead: number
  readonly bytesFetched: number
  readonly cacheHits: number
}

export interface RunningBoot extends AsyncDisposable {
  readonly session: string
  readonly pid: number
  readonly qmp: string
  readonly serial: string
  readonly agent: string
  readonly accelerator: Accelerator
  /** From the call of bootPoint to the guest's first read; absent when it read nothing in time. */
  readonly secondsToFirstRead?: number
  readonly warnings: readonly string[]
  /** Read by the guest, and fetched from the repository for it, so far. */
  readonly figures: () => BootFigures
  /** Resolves when QEMU has ended by itself or by `stop`, before the servers go. */
  readonly ended: Promise<QemuExit>
  /** Ends QEMU, then the servers; the session stays with its overlays and its pin. Dispose does the same. */
  readonly stop: () => Promise<void>
}

/** Resolves at the guest's first read. Whatever fails before that is undone, but for what an earlier run of the session wrote. */
export async function bootPoint(request: BootRequest): Promise<RunningBoot> {
  const started = request.clock.monotonicMs()
  const session = await (request.resume ? openSession : createSession)(request, request.session)
  try {
    return await new Boot(request, session, started).run()
  } catch (error) {
    // A guest that has read nothing has written nothing worth keeping.
    if (!request.resume) await session.remove()
    await session[Symbol.asyncDispose]()
    throw error
  }
}

class Boot {
  readonly #request: BootRequest
  readonly #session: Session
  readonly #started: number
  readonly #program: string
  readonly #firstRead: FirstRead
  #bytesRead = 0

  constructor(request: BootRequest, session: Session, started: number) {
    this.#request = request
    this.#session = session
    this.#started = started
    this.#program = request.program ?? 'qemu-system-x86_64'
    this.#firstRead = new FirstRead(request.clock)
  }

  async run(): Promise<RunningBoot> {
    const { clock, signal } = this.#request
    await using stack = new AsyncDisposableStack()
    const exported = stack.use(await this.#export())
    const { command, state, accelerator, warnings } = await planBoot(
      this.#request,
      this.#session,
      exported,
      this.#program,
    )
    await this.#session.save(state)
    signal?.throwIfAborted()
    const qemu = await startQemu(this.#program, command.arguments, clock)
    stack.defer(async () => {
      await qemu.stop()
    })
    await this.#letRun(qemu)
    const secondsToFirstRead = await this.#waitForFirstRead(qemu)
    const running: SessionState = {
      ...state,
      state: 'running',
      qemu: { ...(state.qemu ?? noQemu), process: { pid: qemu.pid, start: (await startOf(qemu.pid)) ?? 0 } },
      figures: { ...(secondsToFirstRead !== undefined && { secondsToFirstRead }) },
    }
    await this.#session.save(running)
    // From here on there are writes: the session keeps its pin until it is discarded.
    exported.point.keepPin()
    return this.#handle(stack.move(), { exported, qemu, running, accelerator, warnings, secondsToFirstRead })
  }

  #export(): Promise<RunningExport> {
    const { repository, point, exporter, cache, signal } = this.#request
    const before = this.#session.state()
    if (before && before.point.id !== point.id)
      throw new LifeboatError('usage', `session ${this.#session.name} is one of point ${before.point.id}`, {
        hint: 'Name that point, or another session.',
      })
    return exportPoint({
      repository,
      point,
      exporter,
      cache,
      signal,
      listen: { socket: this.#session.socketPath('nbd') },
      pin: 'session',
      pinId: before?.point.pin,
      onRead: (_disk, bytes) => {
        this.#bytesRead += bytes
        this.#firstRead.note()
      },
    })
  }

  /** QEMU stands before the first instruction; what it read of the disks by itself does not count. */
  async #letRun(qemu: QemuProcess): Promise<void> {
    const { clock, signal } = this.#request
    const socket = this.#session.socketPath('control')
    const gone = new AbortController()
    const exit = qemu.ended.then(found => gone.abort(qemuFailed(this.#program, found)))
    const within = signal ? AbortSignal.any([signal, gone.signal]) : gone.signal
    try {
      for (let waited = 0; ; waited += QMP_POLL_MS) {
        const qmp = await connectQmp({ socket, clock, signal: within }).catch(async error => {
          if (within.aborted) throw within.reason
          if (!isLifeboatError(error, 'qmp-unreachable') || waited > limits.qemuStopMs) throw error
          await clock.sleep(QMP_POLL_MS, { signal: within })
          return undefined
        })
        if (!qmp) continue
        await using _qmp = qmp
        this.#bytesRead = 0
        this.#firstRead.arm()
        await qmp.execute('cont', undefined, { signal: within })
        return
      }
    } catch (error) {
      // QEMU that ends closes its socket first: wait for what it said.
      if (isLifeboatError(error, 'guest-gone')) await exit
      throw gone.signal.aborted ? gone.signal.reason : error
    }
  }

  async #waitForFirstRead(qemu: QemuProcess): Promise<number | undefined> {
    const { clock, signal, firstReadTimeoutMs = limits.firstReadMs } = this.#request
    const done = new AbortController()
    const within = signal ? AbortSignal.any([signal, done.signal]) : done.signal
    try {
      const at = await Promise.race([
        this.#firstRead.seen,
        clock.sleep(firstReadTimeoutMs, { signal: within }).then(() => undefined),
        qemu.ended.then(exit => Promise.reject(qemuFailed(this.#program, exit))),
      ])
      return at === undefined ? undefined : (at - this.#started) / 1000
    } finally {
      done.abort()
    }
  }

  /** Keeps the figures in the state file fresh for `session show`, while they change. A full disk costs figures, not the guest. */
  async #publish(current: () => SessionState, signal: AbortSignal): Promise<void> {
    let last = ''
    while (!signal.aborted) {
      await this.#request.clock.sleep(limits.sessionFiguresMs, { signal }).catch(() => {})
      const state = current()
      const figures = JSON.stringify(state.figures)
      if (signal.aborted || figures === last) continue
      await this.#session.save(state).catch(() => {})
      last = figures
    }
  }

  #handle(
    stack: AsyncDisposableStack,
    parts: {
      exported: RunningExport
      qemu: QemuProcess
      running: SessionState
      accelerator: Accelerator
      warnings: readonly string[]
      secondsToFirstRead: number | undefined
    },
  ): RunningBoot {
    const { exported, qemu, running, accelerator, warnings, secondsToFirstRead } = parts
    const session = this.#session
    const figures = (): BootFigures => {
      const stats = exported.disks.map(disk => disk.stats())
      const sum = (pick: (one: (typeof stats)[number]) => number) => stats.reduce((total, one) => total + pick(one), 0)
      return {
        bytesRead: this.#bytesRead,
        bytesFetched: sum(one => one.bytesFetched),
        cacheHits: sum(one => one.cacheHits),
      }
    }
    const allFigures = () => ({ ...running.figures, ...this.#request.figures?.(), ...figures() })
    const ending = new AbortController()
    const published = this.#publish(
      () => ({ ...running, figures: allFigures() }),
      ending.signal,
    )
    let stopping: Promise<void> | undefined
    const stop = async () => {
      try {
        ending.abort()
        await published
        await stack.disposeAsync()
        await session.save({ ...running, state: 'stopped', figures: allFigures() })
      } finally {
        await session[Symbol.asyncDispose]()
      }
    }
    const stopOnce = () => {
      stopping ??= stop()
      return stopping
    }
    return {
      session: session.name,
      pid: qemu.pid,
      qmp: session.socketPath('qmp'),
      serial: session.socketPath('serial'),
      agent: session.socketPath('agent'),
      accelerator,
      ...(secondsToFirstRead !== undefined && { secondsToFirstRead }),
      warnings,
      figures,
      ended: qemu.ended,
      stop: stopOnce,
      [Symbol.asyncDispose]: stopOnce,
    }
  }
}

/** QEMU makes its sockets some tens of milliseconds after it was started. */
const QMP_POLL_MS = 20
const noQemu = { program: '', arguments: [], accelerator: '' }
