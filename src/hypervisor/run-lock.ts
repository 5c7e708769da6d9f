/**
 * Who captures a VM: one at a time, told by name. A lock file beside the fleecing images, made by link(2), so that it is there
 * whole or not at all. A process id alone is used again after a restart; with its start time it is not.
 */
import { createHash } from 'node:crypto'
import { link, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import path from 'node:path'
import { LifeboatError } from '../core/errors.ts'
import { hex } from '../core/ids.ts'
import type { Random } from '../core/random.ts'
import { oneAtATime } from './one-at-a-time.ts'

export interface Runner {
  readonly host: string
  readonly pid: number
  /** Clock ticks after boot at which the process started: field 22 of /proc/PID/stat. */
  readonly start: number
}

/** Undefined where there is no such process. */
export async function startOf(pid: number): Promise<number | undefined> {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, 'latin1')
    // The second field, the program's name, may hold spaces and brackets.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    // A zombie has ended; only its parent has not noticed yet.
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : Number(fields[19])
  } catch {
    return undefined
  }
}

export async function thisRunner(): Promise<Runner> {
  const host = hostname().replace(/[^A-Za-z0-9-]/g, '-') || 'host'
  return { host, pid: process.pid, start: (await startOf(process.pid)) ?? 0 }
}

/** False where it ran on another host (or in a container of another name): that cannot be looked up from here. */
export async function isAlive(runner: Runner): Promise<boolean> {
  const me = await thisRunner()
  return runner.host === me.host && (await startOf(runner.pid)) === runner.start
}

export const runnerText = ({ host, pid, start }: Runner): string => `${host}.${pid}.${start}`

export function parseRunner(text: string): Runner | undefined {
  const match = /^([A-Za-z0-9-]{1,64})\.(\d{1,10})\.(\d{1,15})$/.exec(text.trim())
  return match ? { host: match[1]!, pid: Number(match[2]), start: Number(match[3]) } : undefined
}

export const busy = (what: string, runner: Runner | undefined): LifeboatError =>
  new LifeboatError(
    'vm-busy',
    `${what} is being backed up by ${runner ? `process ${runner.pid} on ${runner.host}` : 'another process'}`,
    {
      details: { host: runner?.host, pid: runner?.pid },
      hint: runner
        ? `Wait for it to end, or stop it (kill -TERM ${runner.pid}); it then removes what it put into the machine.`
        : 'Try again.',
    },
  )

export async function readLock(file: string): Promise<Runner | undefined> {
  try {
    return parseRunner(await readFile(file, 'utf8'))
  } catch {
    return undefined
  }
}

/** Throws 'vm-busy' where a living process holds it. A dead one's lock is taken over. */
export async function lockRun(file: string, what: string, random: Random): Promise<AsyncDisposable> {
  await mkdir(path.dirname(file), { recursive: true, mode: 0o700 })
  return await lockFile(file, random, holder => busy(what, holder))
}

/**
 * Takes the lock `file`, whose folder exists, for this process until it is disposed. Throws what `refuse` gives where a living
 * process holds it, or where others were quicker again and again; the holder is then whoever was seen last.
 */
export async function lockFile(
  file: string,
  random: Random,
  refuse: (holder: Runner | undefined) => LifeboatError,
): Promise<AsyncDisposable> {
  const own = runnerText(await thisRunner())
  const draft = `${file}.${hex(random(4))}`
  try {
    await writeFile(draft, `${own}\n`, { mode: 0o600 })
    for (let attempt = 0; !(await linked(draft, file)); attempt++) {
      const holder = await readLock(file)
      if ((holder && (await isAlive(holder))) || attempt >= TAKE_OVER_TRIES) throw refuse(holder)
      await removeDead(file)
    }
  } finally {
    await rm(draft, { force: true })
  }
  return {
    async [Symbol.asyncDispose]() {
      const holder = await readLock(file)
      if (holder && runnerText(holder) === own) await rm(file, { force: true })
    },
  }
}

/** Each costs the life of another process that held the lock in between. */
const TAKE_OVER_TRIES = 3

/**
 * Removes the lock of an owner that is dead. Of many that found it so, a slow one would else remove the living lock that has
 * followed: so they look and remove one after the other.
 */
export async function removeDead(file: string): Promise<void> {
  await oneAtATime(createHash('sha256').update(path.resolve(file)).digest('hex'), async () => {
    const holder = await readLock(file)
    if (!holder || !(await isAlive(holder))) await rm(file, { force: true })
  })
}

async function linked(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to)
    return true
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return false
    throw error
  }
}
