/** A filesystem that another process serves: ours, as it is installed, or a peer's. Nothing of this process touches what is below it. */
import { spawn } from 'node:child_process'
import { mkdtemp, readFile } from 'node:fs/promises'
import path from 'node:path'
import { systemClock } from '../src/core/clock.ts'
import { LIFEBOAT } from './installed.ts'

export interface MountProcess extends AsyncDisposable {
  readonly at: string
  cpuSeconds(): Promise<number>
  /** Of its resident size. */
  peakMiB(): Promise<number>
}

export async function lifeboatMount(
  dir: string,
  environment: Record<string, string>,
  words: readonly string[],
): Promise<MountProcess> {
  const at = await mkdtemp(path.join(dir, 'mounted-'))
  return mounted(process.execPath, at, [LIFEBOAT, 'mount', at, ...words], environment)
}

/** Ready when it is in the list of mounts. */
export async function mounted(
  program: string,
  at: string,
  words: readonly string[],
  environment: Record<string, string> = {},
): Promise<MountProcess> {
  const child = spawn(program, [...words], {
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, ...environment },
  })
  const ended = new Promise(resolve => child.once('close', resolve))
  while (!(await readFile('/proc/self/mountinfo', 'utf8')).includes(` ${at} `)) {
    if (child.exitCode !== null) throw new Error(`${program} ended with ${child.exitCode}`)
    await systemClock.sleep(50)
  }
  return {
    at,
    async cpuSeconds() {
      const text = await readFile(`/proc/${child.pid}/stat`, 'utf8')
      const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
      return (Number(fields[11]) + Number(fields[12])) / 100
    },
    async peakMiB() {
      return Number(/VmHWM:\s+(\d+)/.exec(await readFile(`/proc/${child.pid}/status`, 'utf8'))?.[1]) / 1024
    },
    async [Symbol.asyncDispose]() {
      child.kill('SIGTERM')
      await ended
    },
  }
}
