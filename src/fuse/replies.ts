/**
 * Replies to the kernel. It takes each one in the call that writes it, so that one piece of memory serves for all of them and
 * borrowed memory may be given back at once.
 */

import { limits } from '../core/limits.ts'
import { type FuseDevice, PARTS_MAX } from '../native/fuse-device.ts'
import { OUT_HEADER_BYTES } from './constants.ts'
import { E } from './errno.ts'
import { setUint64 } from './wire.ts'

/** Of the longest reply but a listing: STATX. */
const KEPT_BYTES = 288

export class Replies {
  /** Where bodies are encoded, from `start` on. */
  readonly bytes = Buffer.allocUnsafeSlow(OUT_HEADER_BYTES + limits.fuseListingBytes)
  readonly view = new DataView(this.bytes.buffer)
  readonly start = OUT_HEADER_BYTES
  readonly #device: FuseDevice
  readonly #header = this.bytes.subarray(0, OUT_HEADER_BYTES)
  readonly #headerAlone = [this.#header]
  /** What `body` writes, by its length: most replies are as long as one before them, and a view costs as much as a call. */
  readonly #bodies: (readonly [Uint8Array])[] = []
  readonly #failed: (what: string) => void

  constructor(device: FuseDevice, failed: (what: string) => void) {
    this.#device = device
    this.#failed = failed
  }

  /** True: who asked has his answer, and nothing is left to undo. */
  error(unique: number, errno: number): boolean {
    this.#encodeHeader(unique, -errno, 0)
    this.#write(this.#headerAlone)
    return true
  }

  /** What was encoded. False where nobody has got it: then nothing that it told counts. */
  body(unique: number, length: number): boolean {
    this.#encodeHeader(unique, 0, length)
    const body = this.#bodies[length] ?? ([this.bytes.subarray(0, OUT_HEADER_BYTES + length)] as const)
    if (length <= KEPT_BYTES) this.#bodies[length] = body
    return this.#write(body)
  }

  data(unique: number, views: readonly Uint8Array[], length: number): boolean {
    this.#encodeHeader(unique, 0, length)
    // One view is what a small read has.
    return this.#write(views.length === 1 ? [this.#header, views[0]!] : [this.#header, ...views])
  }

  #encodeHeader(unique: number, error: number, length: number): void {
    this.view.setUint32(0, OUT_HEADER_BYTES + length, true)
    this.view.setInt32(4, error, true)
    setUint64(this.view, 8, unique)
  }

  #write(parts: readonly Uint8Array[]): boolean {
    const errno = this.#device.write(parts)
    // ENOENT: it was interrupted and went away. ENODEV, EPERM: the mount is being taken away.
    if (errno !== 0 && errno !== E.ENOENT && errno !== E.ENODEV && errno !== E.EPERM)
      this.#failed(`the kernel refused a reply of FUSE: errno ${errno}`)
    return errno === 0
  }
}

export const VIEWS_MAX = PARTS_MAX - 1
