/**
 * QEMU as a process of its own: it leads its own process group and session, so that neither Ctrl-C at our terminal nor our
 * own death reaches it, and a later owner of the session takes it over. It is named by pid and start time: a pid alone is
 * used again.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { open, readdir, readFile, rename, stat } from 'node:fs/promises'
import type { Clock } from '../core/clock.ts'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { startOf } from '../hypervisor/run-lock.ts'
import { toolMissing } from './external-tool.ts'
import type { SessionProcess } from './session-state.ts'

export interface QemuExit {
  /** Null where a signal ended it, and where it was not our child, so that nobody told us. */
  readonly code: number | null
  readonly signal: string | null
  /** The end of what it said on stderr. */
  readonly said: string
}

export interface QemuProcess extends SessionProcess {
  /** Resolves when it has ended, however; never rejects. */
  readonly ended: Promise<QemuExit>
  /** SIGTERM, on which QEMU flushes its disks and stores its bitmaps; SIGKILL when that takes too long. */
  stop(): Promise<QemuExit>
  /** SIGKILL: for those whose writes nobody wants. */
  kill(): Promise<QemuExit>
  /** It goes its own way: `ended` may never settle, and nothing of it keeps this process alive. */
  release(): void
}

type Environment = Readonly<Record<string, string | undefined>>

export interface StartQemu {
  readonly program: string
  readonly arguments: readonly string[]
  /** Takes its stderr, for as long as it lives, whoever owns the session then. That of the last run gets a `.1`. */
  readonly log: string
  /** Of this process, to be passed on without its secrets. */
  readonly environment?: Environment
  readonly clock: Clock
}

const SAID_MAX = 8192

/** Throws 'tool-missing'. That the options are wrong shows in `ended`. */
export async function startQemu({
  program,
  arguments: words,
  log,
  environment,
  clock,
}: StartQemu): Promise<QemuProcess> {
  // What the last one said stays, for those who ask why it ended.
  await rename(log, `${log}.1`).catch(() => {})
  await (await open(log, 'w', 0o600)).close()
  // Appending, so that the log can be cut while QEMU writes to it.
  await using stderr = await open(log, 'a', 0o600)
  const child = spawn(program, [...words], {
    detached: true,
    stdio: ['ignore', 'ignore', stderr.fd],
    ...(environment && { env: withoutOurs(environment) }),
  })
  const exit = once(child, 'exit')
  try {
    await Promise.race([once(child, 'spawn'), exit])
  } catch (error) {
    exit.catch(() => {})
    throw toolMissing(program, error)
  }
  child.unref()
  const pid = child.pid ?? 0
  const start = (await startOf(pid)) ?? 0
  const ended = exit.then(
    async ([code, signal]: unknown[]): Promise<QemuExit> => ({
      code: typeof code === 'number' ? code : null,
      signal: typeof signal === 'string' ? signal : null,
      said: await tailOf(log),
    }),
  )
  // An unreferenced child keeps nobody alive.
  return processOf({ pid, start }, ended, clock, () => {})
}

/** QEMU may live for months: it gets no key, no credentials of a store, and no socket that systemd passed to us. */
const withoutOurs = (environment: Environment): Environment =>
  Object.fromEntries(
    Object.entries(environment).filter(([name]) => !/^(LIFEBOAT_|AWS_|LISTEN_|NOTIFY_SOCKET$)/.test(name)),
  )

/** One that an earlier owner of the session started. Its end is looked for, since nobody tells us. */
export function adoptQemu(process: SessionProcess, log: string, clock: Clock): QemuProcess {
  const released = new AbortController()
  const { signal } = released
  const ended = (async (): Promise<QemuExit> => {
    while (await isRunning(process)) {
      await clock.sleep(limits.qemuPollMs, { signal }).catch(() => {})
      if (signal.aborted) await new Promise<never>(() => {})
    }
    return { code: null, signal: null, said: await tailOf(log) }
  })()
  return processOf(process, ended, clock, () => released.abort())
}

function processOf(
  { pid, start }: SessionProcess,
  ended: Promise<QemuExit>,
  clock: Clock,
  release: () => void,
): QemuProcess {
  const end = async (signal: NodeJS.Signals): Promise<QemuExit> => {
    await signalTo({ pid, start }, signal)
    return ended
  }
  return {
    pid,
    start,
    ended,
    kill: () => end('SIGKILL'),
    release,
    async stop() {
      const done = new AbortController()
      const late = clock.sleep(limits.qemuStopMs, { signal: done.signal }).then(
        () => signalTo({ pid, start }, 'SIGKILL'),
        () => {},
      )
      const exit = await end('SIGTERM')
      done.abort()
      await late
      return exit
    },
  }
}

export const isRunning = async ({ pid, start }: SessionProcess): Promise<boolean> => (await startOf(pid)) === start

/** A process that has ended, or whose pid is another's by now, gets nothing. */
async function signalTo(target: SessionProcess, signal: NodeJS.Signals): Promise<void> {
  if (!(await isRunning(target))) return
  try {
    process.kill(target.pid, signal)
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error
  }
}

/**
 * The QEMU of a session whose owner died between starting it and writing its pid down: its command line has our control
 * socket and an overlay in the session's folder.
 */
export async function findQemu(folder: string): Promise<SessionProcess | undefined> {
  const inFolder = JSON.stringify(`${folder}/`).slice(1, -1)
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const words = (await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '')).split('\0')
    if (!words.includes(CONTROL_MONITOR) || !words.some(word => word.includes(inFolder))) continue
    const start = await startOf(Number(name))
    if (start !== undefined) return { pid: Number(name), start }
  }
  return undefined
}

/** The word of QEMU's command line that no other program has. */
export const CONTROL_MONITOR = 'chardev=control,mode=control'

async function tailOf(log: string): Promise<string> {
  try {
    await using file = await open(log, 'r')
    const { size } = await file.stat()
    const bytes = Buffer.alloc(Math.min(size, SAID_MAX))
    await file.read(bytes, 0, bytes.length, size - bytes.length)
    return bytes.toString('utf8').trim()
  } catch {
    return ''
  }
}

/** QEMU may complain for months: what it said goes, but for its end. A line that is written meanwhile may be lost. */
export async function cutLog(log: string): Promise<void> {
  if ((await stat(log).catch(() => undefined)) === undefined) return
  await using file = await open(log, 'r+')
  const { size } = await file.stat()
  if (size <= limits.qemuLogMax) return
  const kept = Buffer.alloc(SAID_MAX)
  await file.read(kept, 0, kept.length, size - kept.length)
  await file.truncate(0)
  await file.write(kept, 0, kept.length, 0)
}

export const qemuFailed = (program: string, { code, signal, said }: QemuExit): LifeboatError =>
  new LifeboatError(
    'tool-failed',
    `${program} ended before the guest ran (${signal ?? code}): ${said.slice(-800) || 'it said nothing'}`,
    {
      details: { command: program },
      hint: 'Look at the options after --, at --memory and --accel, and at `lifeboat doctor`.',
    },
  )
