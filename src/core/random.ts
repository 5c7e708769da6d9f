import { createHash, randomFillSync } from 'node:crypto'

/** A source of random bytes: ids, salts and keys all come from it, so that a test can repeat a whole backup. */
export type Random = (length: number) => Uint8Array

export const systemRandom: Random = length => randomFillSync(new Uint8Array(length))

/** A repeatable stream for tests and benchmarks: SHA-256 in counter mode over `seed`. A real repository's seed is 32 random bytes, see `forkedRandom`. */
export function seededRandom(seed: string): Random {
  let counter = 0
  return length => {
    const bytes = new Uint8Array(length)
    for (let at = 0; at < length; at += 32)
      bytes.set(
        createHash('sha256')
          .update(`${seed}/${counter++}`)
          .digest()
          .subarray(0, length - at),
        at,
      )
    return bytes
  }
}

/**
 * A stream of its own from 32 bytes of `random`, for work whose timing nobody knows: what it draws, and when, changes nothing
 * for others. As unpredictable as `random` is.
 */
export const forkedRandom = (random: Random): Random => seededRandom(Buffer.from(random(32)).toString('hex'))
