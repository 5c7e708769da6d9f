/**
 * Programs that tests start must not outlive them. Three nets: the kernel kills the child when its parent dies
 * (`setpriv --pdeathsig`), the parent kills it when it exits, and a record on disk lets the next run end what slipped
 * through. A record names processes by pid and start time, so that a reused pid is never hit.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { cacheFolder } from './recipe-cache.ts'

export interface OwnedProcess {
  readonly child: ChildProcess
  /** Resolves when the program has ended; never rejects. */
  readonly ended: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }>
  /** Standard output so far, the last 256 KiB. */
  output(): string
  /** Standard output and error so far, the last 64 KiB. */
  log(): string
}

interface ProcessRecord {
  readonly pid: number
  readonly startTime: string
  readonly ownerPid: number
  readonly ownerStartTime: string
  /** A folder that belongs to the process and goes with it. */
  readonly scratch?: string
}

const LOG_CHARACTERS = 64 * 1024
const OUTPUT_CHARACTERS = 256 * 1024
const ENDING_MS = 30_000
const running = new Set<OwnedProcess>()
const folder = (): string => join(cacheFolder(), 'processes')

export interface StartOptions {
  readonly scratch?: string
  readonly env?: NodeJS.ProcessEnv
  /** SIGTERM for programs that clean up after themselves. */
  readonly lastSignal?: 'SIGKILL' | 'SIGTERM'
}

/** Starts a program that ends with us, at the latest. */
export function startOwned(command: string, args: readonly string[], options: StartOptions = {}): OwnedProcess {
  const { lastSignal = 'SIGKILL' } = options
  const child = spawn('setpriv', ['--pdeathsig', lastSignal.slice('SIG'.length), '--', command, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: options.env ?? process.env,
  })
  let log = ''
  let output = ''
  child.stdout.setEncoding('utf8').on('data', chunk => {
    output = (output + chunk).slice(-OUTPUT_CHARACTERS)
    log = (log + chunk).slice(-LOG_CHARACTERS)
  })
  child.stderr.setEncoding('utf8').on('data', chunk => {
    log = (log + chunk).slice(-LOG_CHARACTERS)
  })
  const kill = (): void => {
    child.kill(lastSignal)
  }
  process.once('exit', kill)
  const drop = child.pid === undefined ? () => {} : record(child.pid, options.scratch)
  const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>(resolve => {
    const end = (code: number | null, signal: NodeJS.Signals | null): void => {
      process.off('exit', kill)
      running.delete(owned)
      drop()
      resolve({ code, signal })
    }
    child.once('close', end)
    child.once('error', error => {
      log += error.message
      end(127, null)
    })
  })
  const owned: OwnedProcess = { child, ended, output: () => output, log: () => log }
  running.add(owned)
  return owned
}

/** Programs that are nobody's children: the QEMU of a session, which outlives its server. */
const adopted = new Map<number, () => void>()

/** It ends with us, at the latest. Resolves when it has gone, however that came. */
export async function adoptOwned(pid: number): Promise<void> {
  const startTime = startTimeOf(pid)
  const isThere = () => startTimeOf(pid) === startTime
  if (startTime === '') return
  const kill = (): void => {
    if (isThere()) process.kill(pid, 'SIGKILL')
  }
  process.once('exit', kill)
  const drop = record(pid)
  adopted.set(pid, kill)
  while (isThere()) await setTimeout(100)
  adopted.delete(pid)
  process.off('exit', kill)
  drop()
}

/** Ends everything that this process started, in order where the program knows how, and waits for it. */
export async function endAllOwned(): Promise<void> {
  await Promise.all(
    [...running].map(async ({ child, ended }) => {
      child.kill('SIGTERM')
      const inTime = new AbortController()
      const late = setTimeout(ENDING_MS, undefined, { signal: inTime.signal }).then(
        () => child.kill('SIGKILL'),
        () => {},
      )
      await ended
      inTime.abort()
      await late
    }),
  )
  for (const kill of adopted.values()) kill()
}

/** Writes a record for a process of ours; the result removes it again. */
export function record(pid: number, scratch?: string): () => void {
  const entry: ProcessRecord = {
    pid,
    startTime: startTimeOf(pid),
    ownerPid: process.pid,
    ownerStartTime: startTimeOf(process.pid),
    ...(scratch === undefined ? {} : { scratch }),
  }
  mkdirSync(folder(), { recursive: true })
  const path = join(folder(), `${pid}-${entry.startTime}.json`)
  writeFileSync(path, JSON.stringify(entry))
  return () => rmSync(path, { force: true })
}

/** Ends processes and removes folders whose owner is gone. Those of a run that is still under way are left alone. */
export function endLeftovers(): void {
  for (const name of listOrEmpty(folder())) {
    const path = join(folder(), name)
    const entry = parseRecord(path)
    if (entry !== undefined) {
      if (startTimeOf(entry.ownerPid) === entry.ownerStartTime) continue
      if (startTimeOf(entry.pid) === entry.startTime) process.kill(entry.pid, 'SIGKILL')
      if (entry.scratch !== undefined) rmSync(entry.scratch, { recursive: true, force: true })
    }
    rmSync(path, { force: true })
  }
}

/** Field 22 of /proc/PID/stat; empty when there is no such process. */
export function startTimeOf(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? ''
  } catch {
    return ''
  }
}

/** Undefined for a record that a killed run left half written. */
function parseRecord(path: string): ProcessRecord | undefined {
  try {
    const value: unknown = JSON.parse(readFileSync(path, 'utf8'))
    return isRecord(value) ? value : undefined
  } catch {
    return undefined
  }
}

const isRecord = (value: unknown): value is ProcessRecord =>
  typeof value === 'object' &&
  value !== null &&
  'pid' in value &&
  typeof value.pid === 'number' &&
  'startTime' in value &&
  typeof value.startTime === 'string' &&
  value.startTime !== '' &&
  'ownerPid' in value &&
  typeof value.ownerPid === 'number' &&
  'ownerStartTime' in value &&
  typeof value.ownerStartTime === 'string' &&
  (!('scratch' in value) || typeof value.scratch === 'string')

function listOrEmpty(path: string): string[] {
  try {
    return readdirSync(path)
  } catch {
    return []
  }
}
