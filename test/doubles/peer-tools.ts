/** Programs of other projects that the conformance tests run. */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'

/** A reason to skip, or false: an option of node:test. CI has all of them and skips none. */
export function lacking(...names: readonly string[]): string | false {
  const folders = (process.env.PATH ?? '').split(delimiter)
  const missing = names.filter(name => !folders.some(folder => existsSync(join(folder, name))))
  return missing.length > 0 && `not installed: ${missing.join(', ')}`
}

/** Runs a program without blocking this process, which may be serving it. Rejects with its stderr if it fails. */
export const run = (command: string, ...args: readonly string[]): Promise<string> =>
  new Promise((resolve, reject) =>
    execFile(command, [...args], { maxBuffer: 1 << 26, timeout: 120_000 }, (error, stdout, stderr) =>
      error ? reject(new Error(`${command} ${args.join(' ')}: ${error.message}\n${stderr}${stdout}`)) : resolve(stdout),
    ),
  )

/**
 * Between bind and listen the socket file is there and refuses. The kernel's table tells (its fourth column has the flag), and
 * asking it does not cost the one connection that some servers take.
 */
const isListening = (where: string | number): boolean =>
  typeof where === 'number'
    ? rows('/proc/net/tcp').some(row => row[1]?.endsWith(`:${hex(where)}`) && row[3] === '0A')
    : rows('/proc/net/unix').some(row => row.at(-1) === where && row[3] === '00010000')

const rows = (table: string): string[][] =>
  readFileSync(table, 'utf8')
    .split('\n')
    .map(line => line.trim().split(/ +/))
const hex = (port: number): string => port.toString(16).toUpperCase().padStart(4, '0')

/** A server of another project on a socket, or on a port of this host; ends with the scope. */
export async function startPeer(
  where: string | number,
  command: string,
  ...args: readonly string[]
): Promise<AsyncDisposable> {
  const child: ChildProcess = spawn(command, [...args], { stdio: ['ignore', 'ignore', 'pipe'] })
  let stderr = ''
  child.stderr?.on('data', data => {
    stderr += data
  })
  const ended = new Promise<void>(resolve => child.once('exit', () => resolve()))
  while (!isListening(where)) {
    if (child.exitCode !== null) throw new Error(`${command} ended: ${stderr}`)
    await new Promise(resolve => setTimeout(resolve, 10))
  }
  return {
    async [Symbol.asyncDispose]() {
      // nbdkit would finish its delayed requests first.
      child.kill('SIGKILL')
      await ended
    },
  }
}
