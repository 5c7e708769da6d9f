/** Runs a command and measures what it cost: CPU of it and its children, wall time, peak memory of the process itself. */
import { spawn } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { LIFEBOAT } from './installed.ts'

export interface Cost {
  readonly cpuSeconds: number
  readonly wallSeconds: number
  readonly peakMiB: number
  readonly stdout: string
}

export const lifeboat = (argv: readonly string[], environment: Record<string, string> = {}): Promise<Cost> =>
  cost(process.execPath, [LIFEBOAT, ...argv], environment)

/** bash's `time` reports the user and system time of the child and all that it waited for. */
export async function cost(
  program: string,
  argv: readonly string[],
  environment: Record<string, string> = {},
): Promise<Cost> {
  const script = 'TIMEFORMAT="%U %S %R"; time "$@" 2>&3'
  const child = spawn('bash', ['-c', script, 'bash', program, ...argv], {
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    env: { ...process.env, ...environment },
  })
  const [stdout, time, stderr] = [child.stdio[1], child.stdio[2], child.stdio[3]].map(collect)
  let peakKiB = 0
  const poll = setInterval(async () => {
    for (const pid of await childrenOf(child.pid)) peakKiB = Math.max(peakKiB, await peakOf(pid))
  }, 50)
  const code = await new Promise<number | null>((resolve, reject) => child.on('error', reject).on('close', resolve))
  clearInterval(poll)
  if (code !== 0) throw new Error(`${program} ${argv.join(' ')} ended with ${code}: ${(await stderr) ?? ''}`)
  const [user = 0, system = 0, real = 0] = ((await time) ?? '').trim().split(/\s+/).slice(-3).map(Number)
  return { cpuSeconds: user + system, wallSeconds: real, peakMiB: peakKiB / 1024, stdout: (await stdout) ?? '' }
}

async function collect(stream: unknown): Promise<string> {
  let text = ''
  if (stream && typeof stream === 'object' && Symbol.asyncIterator in stream)
    for await (const part of stream as AsyncIterable<Buffer>) text += part.toString()
  return text
}

async function childrenOf(pid: number | undefined): Promise<number[]> {
  const text = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => '')
  return text.trim().split(' ').filter(Boolean).map(Number)
}

async function peakOf(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '')
  return Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0)
}
