/** The guest of a booted session: QEMU is started and let run, or one that an earlier owner started is taken over. */
import type { Clock } from '../core/clock.ts'
import { isLifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { connectQmp, type QmpClient } from '../hypervisor/qemu/qmp.ts'
import type { FirstRead } from './first-read.ts'
import { adoptQemu, type QemuProcess, qemuFailed, startQemu } from './qemu-process.ts'
import type { SessionProcess } from './session-state.ts'
import { step } from './session-step.ts'

export interface GuestRequest extends AbortOptions {
  readonly program: string
  readonly arguments: readonly string[]
  /** QEMU's control socket. */
  readonly socket: string
  readonly log: string
  readonly environment?: Readonly<Record<string, string | undefined>>
  readonly clock: Clock
  readonly firstRead: FirstRead
  readonly firstReadTimeoutMs?: number
  /** Its name is to be durable before the guest runs. */
  readonly onStarted: (process: SessionProcess) => Promise<unknown>
}

export interface Guest {
  readonly qemu: QemuProcess
  readonly qmp: QmpClient
  /** When the guest first read of its disks, by the clock; absent where it did not in time, or was not started here. */
  readonly firstReadAt?: number
}

/** Resolves at the guest's first read. Until then QEMU ends with a failure, or with the signal. */
export async function startGuest(request: GuestRequest): Promise<Guest> {
  const { program, arguments: words, log, environment, clock, onStarted, signal } = request
  signal?.throwIfAborted()
  const qemu = await startQemu({ program, arguments: words, log, environment, clock })
  step('qemu started')
  await using stack = new AsyncDisposableStack()
  stack.defer(async () => {
    await qemu.stop()
  })
  await onStarted(qemu)
  step('qemu written down')
  const qmp = stack.use(await connectTo(qemu, request))
  request.firstRead.arm()
  await qmp.execute('cont', undefined, { signal })
  step('guest runs')
  const firstReadAt = await waitForFirstRead(qemu, request)
  stack.move()
  return { qemu, qmp, ...(firstReadAt !== undefined && { firstReadAt }) }
}

/** The guest has not noticed anything, but for disks that answer slowly. What fails here leaves it as it is. */
export async function takeOverGuest(process: SessionProcess, request: GuestRequest): Promise<Guest> {
  const qemu = adoptQemu(process, request.log, request.clock)
  const qmp = await connectTo(qemu, request)
  try {
    const status = await qmp.execute('query-status', undefined, request)
    // Its owner died before it let the guest run.
    if (typeof status === 'object' && status !== null && 'status' in status && status.status === 'prelaunch')
      await qmp.execute('cont', undefined, request)
    return { qemu, qmp }
  } catch (error) {
    await qmp[Symbol.asyncDispose]()
    throw error
  }
}

/** QEMU makes its sockets some tens of milliseconds after it was started, and lets go of a dead client's as soon as it looks. */
async function connectTo(qemu: QemuProcess, { program, socket, clock, signal }: GuestRequest): Promise<QmpClient> {
  const gone = new AbortController()
  const exit = qemu.ended.then(found => gone.abort(qemuFailed(program, found)))
  const within = signal ? AbortSignal.any([signal, gone.signal]) : gone.signal
  try {
    for (let waited = 0; ; waited += QMP_POLL_MS) {
      const qmp = await connectQmp({ socket, clock, signal: within }).catch(async error => {
        if (within.aborted) throw within.reason
        if (!isLifeboatError(error, 'qmp-unreachable') || waited > limits.qemuStopMs) throw error
        await clock.sleep(QMP_POLL_MS, { signal: within })
        return undefined
      })
      if (qmp) return qmp
    }
  } catch (error) {
    // QEMU that ends closes its socket first: wait for what it said.
    if (isLifeboatError(error, 'guest-gone')) await exit
    throw gone.signal.aborted ? gone.signal.reason : error
  }
}

async function waitForFirstRead(
  qemu: QemuProcess,
  { program, clock, signal, firstRead, firstReadTimeoutMs = limits.firstReadMs }: GuestRequest,
): Promise<number | undefined> {
  const done = new AbortController()
  const within = signal ? AbortSignal.any([signal, done.signal]) : done.signal
  try {
    return await Promise.race([
      firstRead.seen,
      clock.sleep(firstReadTimeoutMs, { signal: within }).then(() => undefined),
      qemu.ended.then(exit => Promise.reject(qemuFailed(program, exit))),
    ])
  } finally {
    done.abort()
  }
}

const QMP_POLL_MS = 20
