/** Other people's programs, run to their end: bounded output, ended with the signal, failures as LifeboatErrors with what they said. */
import { spawn } from 'node:child_process'
import { LifeboatError } from '../core/errors.ts'
import type { AbortOptions } from '../core/scope.ts'

export interface ToolResult {
  readonly stdout: string
  readonly stderr: string
  /** The exit code, or -1 where a signal ended it. */
  readonly code: number
}

/** Debian's package of each tool that is run. */
const PACKAGES: Readonly<Record<string, string>> = {
  'qemu-img': 'qemu-utils',
  'qemu-nbd': 'qemu-utils',
  'qemu-system-x86_64': 'qemu-system-x86',
}

const OUTPUT_MAX = 1024 * 1024

/** Resolves whatever the exit code is. Throws 'tool-missing', or the signal's reason after the program has ended. */
export function runTool(command: string, args: readonly string[], options: AbortOptions = {}): Promise<ToolResult> {
  const { signal } = options
  signal?.throwIfAborted()
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    const output = { stdout: '', stderr: '' }
    for (const name of ['stdout', 'stderr'] as const)
      child[name].setEncoding('utf8').on('data', (text: string) => {
        output[name] = (output[name] + text).slice(-OUTPUT_MAX)
      })
    const stop = () => child.kill('SIGKILL')
    signal?.addEventListener('abort', stop, { once: true })
    child.once('error', error => {
      signal?.removeEventListener('abort', stop)
      reject(toolMissing(command, error))
    })
    child.once('close', code => {
      signal?.removeEventListener('abort', stop)
      if (signal?.aborted) reject(signal.reason)
      else resolve({ ...output, code: code ?? -1 })
    })
  })
}

/** Throws 'tool-failed' with what the program said unless it ended with 0. */
export async function mustRun(command: string, args: readonly string[], options: AbortOptions = {}): Promise<string> {
  const { code, stdout, stderr } = await runTool(command, args, options)
  if (code === 0) return stdout
  const said = stderr.trim().split('\n').slice(-3).join('; ').slice(0, 500)
  if (/No space left on device|Disk quota exceeded/.test(stderr))
    throw new LifeboatError('disk-full', `${command} found no space: ${said}`, {
      hint: 'Free space there and try again.',
    })
  throw new LifeboatError('tool-failed', `${command} ${args[0] ?? ''} failed with ${code}: ${said}`, {
    details: { command, args: [...args] },
  })
}

export const toolMissing = (command: string, cause?: unknown): LifeboatError =>
  new LifeboatError('tool-missing', `${command} cannot be run on this host`, {
    details: { object: command },
    hint: PACKAGES[command] ? `Install it: apt-get install ${PACKAGES[command]}` : `Install ${command}.`,
    cause,
  })
