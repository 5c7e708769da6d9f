import { createCipheriv, createHash, randomFillSync } from 'node:crypto'

/** A source of random bytes: ids, salts and keys all come from it, so that a test can repeat a whole backup. */
export interface Random {
  (length: number): Uint8Array
  /** A stream that others do not disturb; absent where each call is independent of all others anyway. */
  readonly fork?: () => Random
}

export const systemRandom: Random = length => randomFillSync(new Uint8Array(length))

/** A repeatable stream for tests and benchmarks: AES-256-CTR under the seed's SHA-256. Never used for a real repository. */
export function seededRandom(seed: string): Random {
  const stream = createCipheriv('aes-256-ctr', createHash('sha256').update(seed).digest(), new Uint8Array(16))
  const random = (length: number) => new Uint8Array(stream.update(new Uint8Array(length)))
  return Object.assign(random, { fork: () => seededRandom(Buffer.from(random(32)).toString('hex')) })
}

/**
 * A stream for work whose timing nobody knows: what it draws, and when, changes nothing for others. The system's own source
 * is used as it is: expanding 32 bytes of it would repeat salts on a host that was put back to a snapshot in mid-backup.
 */
export const forkedRandom = (random: Random): Random => random.fork?.() ?? random
