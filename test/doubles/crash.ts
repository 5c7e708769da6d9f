/**
 * Kills a child process (SIGKILL) before and after its k-th mutation, for every k, and lets the caller inspect what each
 * left behind. The child is a program of the test's own that calls `crashPoint()` for the hook and runs it around each
 * mutation. A first run without a kill counts the mutations.
 */
import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface CrashPlace {
  /** Counted from 1. */
  readonly index: number
  readonly when: 'before' | 'after'
}

export interface CrashRun {
  /** Undefined for the run that is not killed. */
  readonly place: CrashPlace | undefined
  /** Lines that the child printed, whole ones only: what it had been promised before it died. */
  readonly lines: readonly string[]
}

export interface CrashOptions {
  /** The child's program. */
  readonly program: URL
  /** A fresh set of arguments for each run: a new folder, for example. */
  readonly prepare: (place: CrashPlace | undefined) => Promise<readonly string[]>
  readonly inspect: (run: CrashRun, parameters: readonly string[]) => Promise<void>
  /** Children at a time. */
  readonly width?: number
  readonly timeoutMs?: number
}

const PLACE = 'LIFEBOAT_CRASH_PLACE'
const COUNT = 'mutations:'

/** Gives the number of mutations of the run that was not killed. */
export async function crashEverywhere(options: CrashOptions): Promise<number> {
  // The first child leaves its compiled code for the others, which start in a third of the time.
  const cache = await mkdtemp(join(tmpdir(), 'lifeboat-compiled-'))
  try {
    return await runAll({ ...options, cache })
  } finally {
    await rm(cache, { recursive: true, force: true })
  }
}

type Runs = CrashOptions & { readonly cache: string }

async function runAll(options: Runs): Promise<number> {
  const count = await runOne(options, undefined)
  if (count === undefined) throw new Error('the child printed no count of mutations')
  const places: CrashPlace[] = []
  for (let index = 1; index <= count; index++) places.push({ index, when: 'before' }, { index, when: 'after' })
  const next = places.values()
  const worker = async () => {
    for (const place of next) await runOne(options, place)
  }
  await Promise.all(Array.from({ length: options.width ?? 2 }, worker))
  return count
}

async function runOne(options: Runs, place: CrashPlace | undefined): Promise<number | undefined> {
  const parameters = await options.prepare(place)
  const { output, signal, code, errors } = await runChild(options, parameters, place)
  const where = place ? `${place.when} mutation ${place.index}` : 'the whole run'
  if (place ? signal !== 'SIGKILL' : code !== 0)
    throw new Error(`${where}: the child ended with ${signal ?? code} instead\n${errors}`)
  const lines = output.split('\n').slice(0, -1)
  try {
    await options.inspect({ place, lines: lines.filter(line => !line.startsWith(COUNT)) }, parameters)
  } catch (error) {
    throw new Error(`killed at ${where}: ${error instanceof Error ? error.message : error}`, { cause: error })
  }
  const counted = lines.find(line => line.startsWith(COUNT))
  return counted === undefined ? undefined : Number(counted.slice(COUNT.length))
}

function runChild(
  { program, timeoutMs = 60_000, cache }: Runs,
  parameters: readonly string[],
  place: CrashPlace | undefined,
) {
  return new Promise<{ output: string; errors: string; code: number | null; signal: string | null }>(
    (resolve, reject) => {
      const child = spawn(process.execPath, [program.pathname, ...parameters], {
        stdio: ['ignore', 'pipe', 'pipe'],
        env: {
          ...process.env,
          [PLACE]: place ? `${place.when} ${place.index}` : '',
          NODE_COMPILE_CACHE: cache,
          NODE_TEST_CONTEXT: undefined,
        },
        timeout: timeoutMs,
        killSignal: 'SIGABRT',
      })
      let output = ''
      let errors = ''
      child.stdout.setEncoding('utf8').on('data', text => {
        output += text
      })
      child.stderr.setEncoding('utf8').on('data', text => {
        errors += text
      })
      child.once('error', reject)
      child.once('close', (code, signal) => resolve({ output, errors, code, signal }))
    },
  )
}

export interface CrashPoint {
  /** Call around each mutation; the process may end here. */
  readonly reach: (when: 'before' | 'after') => void
  /** Call at the end of a run that was not killed. */
  readonly finish: () => void
}

/** In the child. */
export function crashPoint(): CrashPoint {
  const [when, index] = (process.env[PLACE] ?? '').split(' ')
  let count = 0
  return {
    reach: now => {
      if (now === 'before') count++
      if (now === when && count === Number(index)) process.kill(process.pid, 'SIGKILL')
    },
    finish: () => process.stdout.write(`${COUNT}${count}\n`),
  }
}
