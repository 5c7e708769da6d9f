/**
 * /dev/fuse, and a descriptor of it from fusermount3. Reads and writes of the device are made at once on the thread that serves:
 * the kernel copies and never waits, and a hop to libuv's pool and back costs more than the copy (docs/decisions/0027).
 */
import { closeSync } from 'node:fs'
import type { Watch } from './addon.ts'
import { loadAddon } from './native.ts'

export interface FuseDevice extends Disposable {
  /** One request into `target`: its length, or -errno: EAGAIN where there is none, ENODEV once it is unmounted. */
  read(target: Uint8Array): number
  /** One reply of at most `PARTS_MAX` parts, taken when the call returns: 0, or errno: ENOENT where nobody waits for it any more. */
  write(parts: readonly Uint8Array[]): number
  /** Calls back whenever a request, or the end, can be read. Once. */
  watch(readable: () => void): void
}

/** Header included. */
export const PARTS_MAX = 260

/** Owns the descriptor: dispose closes it, with which all requests under way end with an error at whoever asked. */
export function fuseDevice(fd: number): FuseDevice {
  const addon = loadAddon()
  let watched: Watch | undefined
  return {
    read: target => addon.readDevice(fd, target),
    write: parts => addon.writeDevice(fd, parts),
    watch(readable) {
      const watch = addon.watchDescriptor(fd, readable)
      if (typeof watch === 'number') throw new Error(`the FUSE device cannot be watched: errno ${-watch}`)
      watched = watch
    },
    [Symbol.dispose]() {
      if (watched !== undefined) addon.unwatchDescriptor(watched)
      watched = undefined
      closeSync(fd)
    },
  }
}

/** A socket for fusermount3, and ours, over which it sends the descriptor and sees that this process has ended. */
export function socketPair(): readonly [number, number] {
  const pair = loadAddon().socketPair()
  if (typeof pair === 'number') throw new Error(`no pair of sockets: errno ${-pair}`)
  return pair
}

/** -errno: ENOTCONN where the peer ended without sending one, ETIMEDOUT. */
export const receiveDescriptor = (socket: number, timeoutMs: number): Promise<number> =>
  loadAddon().receiveDescriptor(socket, timeoutMs)
