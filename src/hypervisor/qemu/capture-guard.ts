/** Starts the dead man's switch (capture-watch.ts) beside a capture, and tells it when the guest is free again. */
import { spawn } from 'node:child_process'
import path from 'node:path'

export interface Watched {
  readonly qmp: string
  readonly guestAgent?: string
  /** The capturing process, as its marker in QEMU names it. */
  readonly runner: string
}

/** Somebody outside this process who cleans up should it die. Disposed when there is nothing left to clean up. */
export type Guard = (watched: Watched, log: (message: string) => void) => Disposable

export const RELEASED = 'released\n'

/** Its own process group: what ends a terminal's job must not end it too. It never keeps this process from ending. */
export const guardByProcess: Guard = (watched, log) => {
  // .ts when run from the sources, .js when built.
  const program = path.join(import.meta.dirname, `capture-watch${path.extname(import.meta.filename)}`)
  const child = spawn(process.execPath, [program, JSON.stringify(watched)], {
    stdio: ['pipe', 'ignore', 'inherit'],
    detached: true,
  })
  child.on('error', error => log(`nobody would clean up after this backup if it were killed: ${error.message}`))
  // It may have ended by itself; then there is nobody to tell.
  child.stdin.on('error', () => {})
  child.unref()
  return {
    [Symbol.dispose]() {
      child.stdin.end(RELEASED)
    },
  }
}
