/** The real command line, run as a person would run it, with its JSON read back. */
import { fileURLToPath } from 'node:url'
import { type OwnedProcess, startOwned } from '../../test/guest/process-record.ts'

const LAUNCHER = fileURLToPath(new URL('../../bin/lifeboat.mjs', import.meta.url))
const FIRST_ANSWER_MS = 180_000

export type Json = Readonly<Record<string, unknown>>

export interface LifeboatCommand {
  /** Runs to the end and gives what it printed; throws with its messages when it fails. */
  run(...args: readonly string[]): Promise<Json>
  /** Starts a command that prints its JSON and stays: gives the JSON and the process. */
  start(...args: readonly string[]): Promise<{ readonly answer: Json; readonly process: OwnedProcess }>
}

export function lifeboatCommand(
  environment: Readonly<Record<string, string>>,
  show: (line: string) => void,
): LifeboatCommand {
  const launch = (args: readonly string[]): OwnedProcess => {
    show(`lifeboat ${args.join(' ')}`)
    // SIGTERM, not SIGKILL: the program ends its guest and its servers in order.
    return startOwned(process.execPath, [LAUNCHER, ...args, '--json'], {
      env: { ...process.env, ...environment },
      lastSignal: 'SIGTERM',
    })
  }

  return {
    async run(...args) {
      const started = launch(args)
      const { code, signal } = await started.ended
      if (code !== 0)
        throw new Error(`lifeboat ${args.join(' ')} ended with ${signal ?? `exit code ${code}`}:\n${started.log()}`)
      return parseDocument(started.output()) ?? {}
    },

    async start(...args) {
      const started = launch(args)
      const late = setTimeout(() => started.child.kill('SIGTERM'), FIRST_ANSWER_MS)
      let finished = false
      void started.ended.then(() => {
        finished = true
      })
      try {
        for (;;) {
          const answer = parseDocument(started.output())
          if (answer !== undefined) return { answer, process: started }
          if (finished) throw new Error(`lifeboat ${args.join(' ')} ended before it answered:\n${started.log()}`)
          await Promise.race([started.ended, new Promise(resolve => started.child.stdout?.once('data', resolve))])
        }
      } finally {
        clearTimeout(late)
      }
    },
  }
}

/** Undefined while the document is not whole. */
function parseDocument(text: string): Json | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return isObject(value) ? value : undefined
  } catch {
    return undefined
  }
}

const isObject = (value: unknown): value is Json => typeof value === 'object' && value !== null && !Array.isArray(value)

export function textOf(json: Json, field: string): string {
  const value = json[field]
  if (typeof value !== 'string') throw new Error(`the answer has no text '${field}': ${JSON.stringify(json)}`)
  return value
}

export function numberOf(json: Json, field: string): number {
  const value = json[field]
  if (typeof value !== 'number') throw new Error(`the answer has no number '${field}': ${JSON.stringify(json)}`)
  return value
}

export function listOf(json: Json, field: string): readonly Json[] {
  const value = json[field]
  if (!Array.isArray(value) || !value.every(isObject))
    throw new Error(`the answer has no list '${field}': ${JSON.stringify(json)}`)
  return value
}
