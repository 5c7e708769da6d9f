/** Log lines that a hostile client can neither forge nor flood. */
import type { Clock } from '../core/clock.ts'

export type NbdLog = (line: string) => void

/** Text of a client as printable ASCII, cut. */
export function escapeText(text: string, lengthMax = 120): string {
  const cut = text.length > lengthMax ? `${text.slice(0, lengthMax)}...` : text
  return JSON.stringify(cut).replace(/[^\x20-\x7e]/g, c => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

/** Passes on at most `perSecond` lines a second and says how many it kept to itself. */
export function rateLimited(log: NbdLog, clock: Clock, perSecond = 10): NbdLog {
  let windowStart = clock.monotonicMs()
  let count = 0
  return line => {
    const now = clock.monotonicMs()
    if (now - windowStart >= 1000) {
      if (count > perSecond) log(`${count - perSecond} more lines suppressed`)
      windowStart = now
      count = 0
    }
    if (++count <= perSecond) log(line)
  }
}
