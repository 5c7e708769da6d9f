/** Asks on the terminal for what nobody may read over a shoulder. */
import { createInterface } from 'node:readline'
import { Writable } from 'node:stream'
import { LifeboatError } from '../core/errors.ts'

/**
 * One line, never shown; '' where the person ends the input (Ctrl-D). Throws 'interrupted' on Ctrl-C, which the terminal gives
 * as a key while it shows nothing.
 */
export async function askHidden(question: string, terminal: Writable, signal: AbortSignal): Promise<string> {
  signal.throwIfAborted()
  const silent = new Writable({ write: (_part, _encoding, done) => done() })
  const reader = createInterface({ input: process.stdin, output: silent, terminal: true })
  const answer = Promise.withResolvers<string>()
  reader.once('line', answer.resolve)
  reader.once('SIGINT', () => answer.reject(new LifeboatError('interrupted', 'stopped by Ctrl-C')))
  reader.once('close', () => answer.resolve(''))
  const abort = () => answer.reject(signal.reason)
  signal.addEventListener('abort', abort)
  // Asked only now that the terminal shows nothing any more: people and programs answer at once.
  terminal.write(question)
  try {
    return await answer.promise
  } finally {
    signal.removeEventListener('abort', abort)
    reader.close()
    terminal.write('\n')
  }
}
