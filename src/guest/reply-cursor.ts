/** A reply's body, read from the front. Whatever is not there as promised throws 'guest-protocol'. */
import { protocolError } from './guest-errors.ts'

export class ReplyCursor {
  readonly #bytes: Buffer
  #at = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  get at(): number {
    return this.#at
  }

  get left(): number {
    return this.#bytes.length - this.#at
  }

  u8(): number {
    return this.#bytes.readUInt8(this.#pass(1))
  }

  u16(): number {
    return this.#bytes.readUInt16LE(this.#pass(2))
  }

  u32(): number {
    return this.#bytes.readUInt32LE(this.#pass(4))
  }

  u64(): bigint {
    return this.#bytes.readBigUInt64LE(this.#pass(8))
  }

  i64(): bigint {
    return this.#bytes.readBigInt64LE(this.#pass(8))
  }

  /** A view of the reply; who keeps it copies it. */
  bytes(length: number): Buffer {
    const at = this.#pass(length)
    return this.#bytes.subarray(at, at + length)
  }

  /** What was read since it stood there; a view. */
  since(at: number): Buffer {
    return this.#bytes.subarray(at, this.#at)
  }

  text(max: number): Buffer {
    const length = this.u32()
    if (length > max) throw protocolError(`a text of ${length} bytes`)
    return this.bytes(length)
  }

  /** So many things of at least `bytesEach` follow: what cannot be there is not counted to. */
  count(count: number, bytesEach: number): number {
    if (count * bytesEach > this.left) throw protocolError(`${count} things in ${this.left} bytes`)
    return count
  }

  end(): void {
    if (this.left > 0) throw protocolError(`${this.left} bytes too many`)
  }

  #pass(length: number): number {
    if (length > this.left) throw protocolError('a reply that ends too early')
    const at = this.#at
    this.#at += length
    return at
  }
}
