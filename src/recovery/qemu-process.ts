/** QEMU as our child: it never outlives us (the kernel ends it when we die), and is ended in order when asked. */
import { type ChildProcess, spawn } from 'node:child_process'
import type { Clock } from '../core/clock.ts'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { toolMissing } from './external-tool.ts'

export interface QemuExit {
  readonly code: number | null
  readonly signal: string | null
  /** The end of what it said on stderr. */
  readonly said: string
}

export interface QemuProcess {
  readonly pid: number
  /** Resolves when it has ended, however; never rejects. */
  readonly ended: Promise<QemuExit>
  /** SIGTERM, on which QEMU flushes its disks and stores its bitmaps; SIGKILL when that takes too long. */
  stop(): Promise<QemuExit>
}

const SAID_MAX = 8192

/** Throws 'tool-missing'. That the options are wrong shows in `ended`. */
export async function startQemu(program: string, args: readonly string[], clock: Clock): Promise<QemuProcess> {
  // setpriv replaces itself by QEMU, whose pid is then the child's.
  const child = spawn('setpriv', ['--pdeathsig', 'TERM', '--', program, ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-SAID_MAX)
  })
  const ended = new Promise<QemuExit>(resolve => {
    child.once('close', (code, signal) => resolve({ code, signal, said: said.trim() }))
  })
  const pid = await started(child)
  return { pid, ended, stop: () => stopChild(child, ended, clock) }
}

function started(child: ChildProcess): Promise<number> {
  return new Promise((resolve, reject) => {
    child.once('spawn', () => resolve(child.pid ?? 0))
    child.once('error', error => reject(toolMissing('setpriv', error)))
  })
}

async function stopChild(child: ChildProcess, ended: Promise<QemuExit>, clock: Clock): Promise<QemuExit> {
  child.kill('SIGTERM')
  const done = new AbortController()
  const late = clock.sleep(limits.qemuStopMs, { signal: done.signal }).then(
    () => child.kill('SIGKILL'),
    () => {},
  )
  const exit = await ended
  done.abort()
  await late
  return exit
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
