/** Sealed records of a made-up repository, told apart by a number: any process knows what is right for each. */
import { packId, repositoryId } from '../../src/core/ids.ts'
import type { RecordName } from '../../src/repository/record-cache.ts'
import { patternBytes } from './pattern.ts'

const repository = repositoryId('ab'.repeat(16))

export const recordNumber = (number: number): RecordName => ({
  repository,
  kind: number % 7 === 0 ? 'meta' : 'data',
  pack: packId(
    Math.floor(number / 100)
      .toString(16)
      .padStart(32, '0'),
  ),
  slot: number % 100,
})

/** From some hundred bytes to some 40 KiB. */
export const storedNumber = (number: number): Uint8Array =>
  patternBytes(300 + ((number * 7919) % 40_000), number * 2_654_435_761)
