/** A session's server as a process of its own: it outlives the command that started it. */
import { spawn } from 'node:child_process'
import { mkdir, open, readFile } from 'node:fs/promises'
import path from 'node:path'
import { exitCode } from './exit-code.ts'
import type { Invocation } from './invocation.ts'

export interface DetachedAnswer {
  /** The document that it printed when its session ran, or with its failure. */
  readonly answer: object
  /** Undefined where it runs. */
  readonly code: number | undefined
  /** Where its messages go. */
  readonly log: string
}

/**
 * Runs a command line of this program, without the word lifeboat, as a process group of its own, and waits for what it says
 * once its session runs. Its messages go to a file that the session's folder does not take along.
 */
export async function startDetached(
  { stateDir }: Invocation,
  session: string,
  words: readonly string[],
): Promise<DetachedAnswer> {
  const logs = path.join(stateDir, 'logs')
  await mkdir(logs, { recursive: true, mode: 0o700 })
  const log = path.join(logs, `${session}.log`)
  await using file = await open(log, 'a', 0o600)
  const child = spawn(process.execPath, [process.argv[1] ?? '', '--json', ...words], {
    detached: true,
    stdio: ['ignore', 'pipe', file.fd],
  })
  const { stdout } = child
  const ended = new Promise<number | null>((resolve, reject) => child.once('error', reject).once('close', resolve))
  const line = await new Promise<string | undefined>((resolve, reject) => {
    let text = ''
    stdout?.on('data', (part: Buffer) => {
      text += part.toString()
      const end = text.indexOf('\n')
      if (end >= 0) resolve(text.slice(0, end))
    })
    child.on('error', reject).on('close', () => resolve(undefined))
  })
  const answer: unknown = line === undefined ? undefined : JSON.parse(line)
  if (typeof answer !== 'object' || answer === null || 'error' in answer) {
    const code = await ended
    const unknown = { error: { code: 'internal', message: `it ended with ${code}` } }
    const said = typeof answer === 'object' && answer !== null ? answer : unknown
    return { answer: said, code: code ?? exitCode.failed, log }
  }
  stdout?.destroy()
  child.unref()
  return { answer, code: undefined, log }
}

/** This process's own command line, without what was said to the command that detaches. */
export const ownWords = (...without: readonly string[]): string[] =>
  process.argv.slice(2).filter(word => !['--detach', '--json', '--progress', ...without].includes(word))

/** `session` runs by itself, or the reason why not; its exit code. */
export async function detach(invocation: Invocation, session: string, words: readonly string[]): Promise<number> {
  const { output } = invocation
  const { answer, code, log } = await startDetached(invocation, session, words)
  if (code === undefined) {
    output.result(answer, () => output.line(`session ${session} runs by itself; its messages are in ${log}`))
    return exitCode.done
  }
  output.result(answer, () => {})
  output.error(`the session did not start; what was said is in ${log}:\n${(await readFile(log, 'utf8')).slice(-2000)}`)
  return code
}
