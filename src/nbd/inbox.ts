/** The handshake's bytes as they arrive, read in order by the dialogue with the server. */
import type { LifeboatError } from '../core/errors.ts'
import { limits } from '../core/limits.ts'
import { type Dialogue, protocolError } from './client-handshake.ts'

export class Inbox implements Dialogue {
  readonly write: (bytes: Uint8Array) => void
  #bytes: Buffer = Buffer.alloc(0)
  #failure: LifeboatError | undefined
  #wake: () => void = () => {}

  constructor(write: (bytes: Uint8Array) => void) {
    this.write = write
  }

  get empty(): boolean {
    return this.#bytes.length === 0
  }

  arrived(bytes: Uint8Array): void {
    // A server answers what it is asked, so no honest one gets this far ahead.
    if (this.#bytes.length + bytes.length > 4 * limits.nbdOptionBytes) throw protocolError('too much in the handshake')
    this.#bytes = Buffer.concat([this.#bytes, bytes])
    this.#wake()
  }

  /** Every `read`, also one that waits, fails from now on. */
  fail(error: LifeboatError): void {
    this.#failure = error
    this.#wake()
  }

  async read(length: number): Promise<Uint8Array> {
    while (this.#bytes.length < length) {
      if (this.#failure !== undefined) throw this.#failure
      await new Promise<void>(resolve => {
        this.#wake = resolve
      })
    }
    const bytes = this.#bytes.subarray(0, length)
    this.#bytes = this.#bytes.subarray(length)
    return bytes
  }
}
