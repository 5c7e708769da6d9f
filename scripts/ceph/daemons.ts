/** The processes of a cluster, found by their pid files, ended by pid, and only where the pid is still what it was. */
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

export const DAEMONS = ['mon', 'mgr', 'osd', 'rgw'] as const
export type Daemon = (typeof DAEMONS)[number]

const PID_NAME: Readonly<Record<Daemon, string>> = { mon: 'mon.a', mgr: 'mgr.x', osd: 'osd.0', rgw: 'client.rgw.a' }
const ENDING_MS = 20_000

const commandOf = (folder: string, daemon: Daemon): readonly [string, ...string[]] => {
  const conf = join(folder, 'ceph.conf')
  switch (daemon) {
    case 'mon':
      return ['ceph-mon', '-c', conf, '-i', 'a']
    case 'mgr':
      return ['ceph-mgr', '-c', conf, '-i', 'x', '--keyring', join(folder, 'mgr/x/keyring')]
    case 'osd':
      return ['ceph-osd', '-c', conf, '-i', '0', '--keyring', join(folder, 'osd0/keyring')]
    case 'rgw':
      return ['radosgw', '-c', conf, '-n', 'client.rgw.a']
  }
}

/** Bounded: a cluster that is stuck fails the run instead of holding it. */
export async function command(name: string, ...args: readonly string[]): Promise<string> {
  try {
    return (await promisify(execFile)(name, [...args], { timeout: 120_000, maxBuffer: 1 << 24 })).stdout
  } catch (error) {
    const said = error instanceof Error && 'stderr' in error ? String(error.stderr).slice(-2_000) : ''
    throw new Error(`${name} ${args.join(' ')} failed: ${said}`, { cause: error })
  }
}

/** It goes to the background by itself and writes its pid file. */
export async function startDaemon(folder: string, daemon: Daemon): Promise<void> {
  const [name, ...args] = commandOf(folder, daemon)
  await command(name, ...args)
}

/** Undefined where it does not run; a killed process that nobody has reaped yet does not. */
export function pidOf(folder: string, daemon: Daemon): number | undefined {
  try {
    const text = readFileSync(join(folder, 'run', `${PID_NAME[daemon]}.pid`), 'latin1')
    const pid = Number(text.replace(/[\0\s]/g, ''))
    return Number.isInteger(pid) && pid > 1 && isOurs(pid, folder) ? pid : undefined
  } catch {
    return undefined
  }
}

function isOurs(pid: number, folder: string): boolean {
  const words = readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0')
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
  return words.includes(join(folder, 'ceph.conf')) && !/\) [ZX]/.test(stat)
}

/** Kills and waits until it is gone. False where it did not run. */
export async function endDaemon(folder: string, daemon: Daemon, signal: 'SIGTERM' | 'SIGKILL'): Promise<boolean> {
  const pid = pidOf(folder, daemon)
  if (pid === undefined) return false
  process.kill(pid, signal)
  const deadline = performance.now() + ENDING_MS
  while (pidOf(folder, daemon) === pid) {
    if (performance.now() > deadline) {
      if (signal === 'SIGKILL') throw new Error(`${daemon} with pid ${pid} does not end`)
      return endDaemon(folder, daemon, 'SIGKILL')
    }
    await sleep(20)
  }
  return true
}
