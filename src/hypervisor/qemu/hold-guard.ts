/** Starts the dead man's switch (hold-watch.ts) beside a capture, and tells it when the guest is free again. */
import { spawn } from 'node:child_process'
import path from 'node:path'

export interface Watched {
  readonly qmp: string
  readonly guestAgent?: string
}

export const RELEASED = 'released\n'

/** Its own process group: what ends a terminal's job must not end it too. It never keeps this process from ending. */
export function guardHold(watched: Watched, log: (message: string) => void): Disposable {
  // .ts when run from the sources, .js when built.
  const program = path.join(import.meta.dirname, `hold-watch${path.extname(import.meta.filename)}`)
  const child = spawn(process.execPath, [program, JSON.stringify(watched)], {
    stdio: ['pipe', 'ignore', 'inherit'],
    detached: true,
  })
  child.on('error', error => log(`no watch over the pause of the guest: ${error.message}`))
  // It may have ended by itself; then there is nobody to tell.
  child.stdin.on('error', () => {})
  child.unref()
  return {
    [Symbol.dispose]() {
      child.stdin.end(RELEASED)
    },
  }
}
