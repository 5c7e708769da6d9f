import { LifeboatError } from '../core/errors.ts'

/** Reads numbers and bytes one after the other; everything past the end is refused before it is touched. */
export class ByteCursor {
  readonly #bytes: Uint8Array
  readonly #what: string
  #at = 0

  constructor(bytes: Uint8Array, what: string) {
    this.#bytes = bytes
    this.#what = what
  }

  get remaining(): number {
    return this.#bytes.length - this.#at
  }

  /** A view, not a copy. */
  take(length: number): Uint8Array {
    if (length > this.remaining) throw this.absurd(`ends ${length - this.remaining} bytes early`)
    this.#at += length
    return this.#bytes.subarray(this.#at - length, this.#at)
  }

  uint(width: 1 | 2 | 3 | 4): number {
    let value = 0
    for (const byte of this.take(width)) value = value * 256 + byte
    return value
  }

  /** Unsigned LEB128, at most 8 bytes, below 2^53, in its shortest form only. */
  varint(): number {
    let value = 0
    let factor = 1
    for (let length = 1; length <= 8; length++) {
      if (this.#at >= this.#bytes.length) throw this.absurd('ends in the middle of a number')
      const byte = this.#bytes[this.#at++]!
      value += (byte & 0x7f) * factor
      if (byte < 0x80) {
        if (byte === 0 && length > 1) throw this.absurd('has a number that is longer than it needs to be')
        if (value > Number.MAX_SAFE_INTEGER) break
        return value
      }
      factor *= 128
    }
    throw this.absurd('has a number above 2^53')
  }

  absurd(why: string): LifeboatError {
    return new LifeboatError('absurd-object', `${this.#what} ${why}`)
  }
}

export function pushVarint(target: number[], value: number): void {
  let rest = value
  while (rest >= 0x80) {
    target.push((rest % 128) | 0x80)
    rest = Math.floor(rest / 128)
  }
  target.push(rest)
}
