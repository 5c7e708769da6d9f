/**
 * A socket that encrypts, given a little at a time. Encryption takes whatever it is given at once and holds it a second time, so
 * what a slow client has not taken yet waits here, where it lies once and is counted.
 */
import type { Socket } from 'node:net'
import { limits } from '../core/limits.ts'
import type { ReplySocket } from './reply-writer.ts'

interface Waiting {
  readonly bytes: Uint8Array
  readonly taken: () => void
  at: number
}

export class PacedSocket implements ReplySocket {
  readonly #socket: Socket
  readonly #waiting: Waiting[] = []
  #given = 0

  constructor(socket: Socket) {
    this.#socket = socket
    socket.once('close', () => {
      for (const { taken } of this.#waiting.splice(0)) taken()
    })
  }

  write(bytes: Uint8Array, taken: () => void): void {
    if (this.#socket.destroyed) {
      process.nextTick(taken)
      return
    }
    this.#waiting.push({ bytes, taken, at: 0 })
    this.#give()
  }

  cork(): void {
    this.#socket.cork()
  }

  uncork(): void {
    this.#socket.uncork()
  }

  #give(): void {
    while (this.#given < limits.nbdTlsWriteBytes) {
      const first = this.#waiting[0]
      if (first === undefined) return
      const piece = first.bytes.subarray(first.at, first.at + limits.nbdTlsWriteBytes - this.#given)
      first.at += piece.length
      const last = first.at === first.bytes.length
      if (last) this.#waiting.shift()
      this.#given += piece.length
      this.#socket.write(piece, () => {
        this.#given -= piece.length
        if (last) first.taken()
        if (!this.#socket.destroyed) this.#give()
      })
    }
  }
}
