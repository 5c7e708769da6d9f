/**
 * Loaded into a process of the program (node --import, with --expose-gc and a channel): tells what it holds when all garbage is
 * gone. With TEST_LEAK it keeps memory and a descriptor for each client that comes, and answers later each time that it has told
 * what it holds, as a program does that forgets to clean up.
 */
import { subscribe } from 'node:diagnostics_channel'
import { openSync } from 'node:fs'
import { Socket } from 'node:net'
import { setImmediate } from 'node:timers/promises'

export interface HeldMemory {
  readonly residentBytes: number
  /** Of objects and buffers that are still in use. */
  readonly liveBytes: number
}

let told = 0
if (process.env.TEST_LEAK) leak()

function leak(): void {
  const kept: { bytes: Buffer; descriptor: number }[] = []
  subscribe('net.server.socket', () => {
    kept.push({ bytes: Buffer.alloc(64 * 1024, 1), descriptor: openSync('/dev/null', 'r') })
  })
  const { write } = Socket.prototype
  // As where a list is searched from end to end at each reply. Not by the clients that came: on a fast machine so many come in
  // the first round that what they cost later is no growth.
  Socket.prototype.write = function (this: Socket, ...words: unknown[]) {
    const until = performance.now() + told / 2
    while (performance.now() < until);
    return Reflect.apply(write, this, words)
  }
}

process.on('message', async () => {
  for (let i = 0; i < 3; i++) {
    globalThis.gc?.()
    await setImmediate()
  }
  const { rss, heapUsed, external } = process.memoryUsage()
  const held: HeldMemory = { residentBytes: rss, liveBytes: heapUsed + external }
  process.send?.(held)
  told++
})
process.channel?.unref()
// Nobody is left to end it.
process.once('disconnect', () => process.exit(1))
