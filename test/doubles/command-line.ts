/** The command line in this process: words in, what it said and its exit code out. Each has a folder of its own for its state. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync } from 'node:fs'
import { lstat, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { Writable } from 'node:stream'
import type { Surroundings } from '../../src/cli/invocation.ts'
import { run } from '../../src/cli/main.ts'
import { type Clock, systemClock } from '../../src/core/clock.ts'
import { systemRandom } from '../../src/core/random.ts'

export interface Answer {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
  /** What stands in stdout with --json. */
  readonly json: unknown
  /** `error` of a failure with --json. */
  readonly error: {
    readonly code?: string
    readonly message?: string
    readonly hint?: string
    readonly object?: string
  }
}

export interface CommandLine extends AsyncDisposable {
  readonly dir: string
  readonly environment: Record<string, string | undefined>
  /** Words of a command line, as text between spaces or as a list. */
  run(words: string | readonly string[], options?: { signal?: AbortSignal }): Promise<Answer>
  /** The same with --json, which must print one document whatever happens. */
  json(words: string | readonly string[], options?: { signal?: AbortSignal }): Promise<Answer>
  at(...parts: string[]): string
}

export interface CommandLineOptions {
  readonly clock?: Clock
  readonly terminal?: boolean
  readonly guests?: Surroundings['guests']
}

export function commandLine(
  environment: Record<string, string | undefined> = {},
  { clock = systemClock, terminal = false, guests }: CommandLineOptions = {},
): CommandLine {
  const dir = mkdtempSync(path.join(tmpdir(), 'lifeboat-cli-'))
  const own = { HOME: dir, LIFEBOAT_STATE_DIR: path.join(dir, 'state'), ...environment }
  const answer = async (words: string | readonly string[], { signal }: { signal?: AbortSignal } = {}) => {
    const [stdout, stderr] = [sink(), sink()]
    if (terminal) Object.assign(stderr.stream, { isTTY: true, columns: 200 })
    const code = await run(typeof words === 'string' ? words.split(' ').filter(word => word !== '') : words, {
      environment: own,
      stdout: stdout.stream,
      stderr: stderr.stream,
      clock,
      random: systemRandom,
      guests,
      signal: signal ?? new AbortController().signal,
    })
    return { code, stdout: stdout.text(), stderr: stderr.text() }
  }
  return {
    dir,
    environment: own,
    at: (...parts) => path.join(dir, ...parts),
    async run(words, options) {
      return { ...(await answer(words, options)), json: undefined, error: {} }
    },
    async json(words, options) {
      const list = typeof words === 'string' ? words.split(' ').filter(word => word !== '') : words
      const found = await answer(['--json', ...list], options)
      const json: unknown = found.stdout === '' ? undefined : JSON.parse(found.stdout)
      return { ...found, json, error: errorOf(json) }
    },
    [Symbol.asyncDispose]: () => rm(dir, { recursive: true, force: true }),
  }
}

function errorOf(json: unknown): Answer['error'] {
  if (typeof json !== 'object' || json === null || !('error' in json)) return {}
  const { error } = json
  return typeof error === 'object' && error !== null ? error : {}
}

function sink() {
  const parts: Buffer[] = []
  const stream = new Writable({
    write(part: Buffer, _encoding, done) {
      parts.push(Buffer.from(part))
      done()
    },
  })
  return { stream, text: () => Buffer.concat(parts).toString() }
}

/** Every file below a folder with its size, time of change and, where it is small, contents: two are equal when nothing happened between them. */
export async function everythingIn(dir: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {}
  for (const name of (await readdir(dir, { recursive: true })).sort()) {
    const file = path.join(dir, name)
    const status = await lstat(file)
    const kind = status.isDirectory() ? 'folder' : status.isFile() ? 'file' : 'other'
    const small = kind === 'file' && status.size < 1 << 20
    found[name] =
      `${kind} ${kind === 'folder' ? '' : status.size} ${small ? (await readFile(file)).toString('base64') : ''}`
  }
  return found
}

/** A disk of its own of so many bytes, to be filled. Needs root, which the build has; undefined elsewhere. */
export function smallDisk(dir: string, bytes: number): AsyncDisposable | undefined {
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${bytes}`, 'tmpfs', dir], { stdio: 'ignore' })
  } catch {
    return undefined
  }
  return {
    async [Symbol.asyncDispose]() {
      execFileSync('umount', ['-l', dir])
    },
  }
}
