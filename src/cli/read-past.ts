import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import type { Output } from './output.ts'

const CHANNEL = 'lifeboat:object-read-past'

/** Says once that something had to be read past a delete marker or a version that somebody put over it. */
export function warnOfReadPast(output: Output): Disposable {
  let isTold = false
  const tell = (message: unknown) => {
    if (isTold || typeof message !== 'object' || message === null || !('key' in message)) return
    isTold = true
    output.warning(
      `somebody has deleted or overwritten ${message.key}, perhaps more; it is read from under that. \`lifeboat verify --all\` names all, \`lifeboat lock repair\` uncovers them`,
    )
  }
  subscribe(CHANNEL, tell)
  return { [Symbol.dispose]: () => void unsubscribe(CHANNEL, tell) }
}
