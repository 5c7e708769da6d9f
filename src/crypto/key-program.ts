/**
 * Runs the program that keeps a key: bytes in, bytes out, bounded in time and size, without a shell. Its words are the host's
 * own; nothing that a store holds reaches them.
 */
import { spawn } from 'node:child_process'
import { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'

export interface KeyProgram {
  /** For messages; by default the program. */
  readonly name?: string
  /** The program and its first words. */
  readonly argv: readonly string[]
  readonly environment: Readonly<Record<string, string | undefined>>
  readonly timeoutMs?: number
}

/** What it wrote to stdout. Throws 'key-unavailable' with what it said on stderr. */
export async function runKeyProgram(
  { argv, environment, timeoutMs = limits.keyCommandMs, name = `The key command ${argv[0]}` }: KeyProgram,
  words: readonly string[],
  input: Uint8Array,
  { signal }: AbortOptions = {},
): Promise<Uint8Array> {
  signal?.throwIfAborted()
  const [command = '', ...first] = argv
  // A group of its own, so that what it starts ends with it.
  const child = spawn(command, [...first, ...words], { env: environment, detached: true, stdio: 'pipe' })
  const ended = Promise.withResolvers<void>()
  ended.promise.catch(() => {})
  const end = (error: unknown) => {
    ended.reject(error)
    try {
      if (child.pid) process.kill(-child.pid, 'SIGKILL')
    } catch {}
  }
  const collect = (stream: NodeJS.ReadableStream): (() => Buffer) => {
    const parts: Buffer[] = []
    let size = 0
    stream.on('data', (part: Buffer) => {
      size += part.length
      parts.push(part)
      if (size > limits.keyCommandOutputMax)
        end(unavailable(name, `wrote more than ${limits.keyCommandOutputMax} bytes`))
    })
    return () => Buffer.concat(parts)
  }
  const output = collect(child.stdout)
  const said = collect(child.stderr)
  const timer = setTimeout(() => end(unavailable(name, `did not end within ${timeoutMs / 1000} s`)), timeoutMs)
  const stop = () => end(signal?.reason)
  signal?.addEventListener('abort', stop, { once: true })
  child.once('error', error => end(unavailable(name, `cannot be run: ${error.message}`)))
  child.once('close', (code, killed) => {
    if (code === 0) ended.resolve()
    else ended.reject(unavailable(name, `ended with ${code ?? killed}${spoken(said())}`))
  })
  // It may end without reading all.
  child.stdin.on('error', () => {})
  child.stdin.end(input)
  try {
    await ended.promise
    return new Uint8Array(output())
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', stop)
    for (const stream of [child.stdin, child.stdout, child.stderr]) stream.destroy()
  }
}

const spoken = (said: Buffer): string => {
  const lines = said
    .toString('utf8')
    .replaceAll(/[^\P{Cc}\n]/gu, ' ')
    .trim()
    .split('\n')
    .slice(-3)
  return lines[0] ? `: ${lines.join('; ').slice(-500)}` : ''
}

const unavailable = (name: string, what: string): LifeboatError =>
  new LifeboatError('key-unavailable', `${name} ${what}`, {
    hint: 'Put that right and try again, or open the repository with another of its keys.',
  })
