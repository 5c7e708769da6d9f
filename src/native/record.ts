/** One record of a pack (docs/repository-format.md, section 4): what stands around its content, and how it is sealed and opened. */
import { createCipheriv, createDecipheriv } from 'node:crypto'
import { constants, zstdDecompressSync } from 'node:zlib'
import { LifeboatError } from '../core/errors.ts'
import { isSoleFrame } from './zstd-frame.ts'

/** codec u8 | length u24. */
export const RECORD_HEAD = 4
export const RECORD_TAG = 16
/** What a record takes beyond its content when that does not shrink. */
export const RECORD_OVERHEAD = RECORD_HEAD + RECORD_TAG
/** `lifeboat/1` | 0 | repository (16) | domain (8) | u8 | pack (16). */
export const AAD_PREFIX_BYTES = 52
export const AAD_BYTES = AAD_PREFIX_BYTES + 36
/** The length field has 24 bits. */
export const RECORD_CONTENT_MAX = 0xffffff
export const CODEC_STORED = 0
export const CODEC_ZSTD = 1

/** The order is that of the addon's result codes. */
export const RECORD_FAULTS = ['short', 'tag', 'codec', 'length', 'zstd', 'id'] as const
export type RecordFault = (typeof RECORD_FAULTS)[number]

const MEANING: Readonly<Record<RecordFault, string>> = {
  short: 'is shorter than its header and tag',
  tag: 'does not authenticate',
  codec: 'names an unknown codec',
  length: 'does not have the length that belongs there',
  zstd: 'does not decompress to the length that it states',
  id: 'holds another content than its id says',
}

/** A record of a batch that must not be used. Whoever knows the pack catches this and names the object. */
export const badRecord = (position: number, reason: RecordFault): LifeboatError =>
  new LifeboatError('corrupt-object', `Record ${position} of the batch ${MEANING[reason]}`, {
    details: { position, reason },
    hint: 'The stored object is damaged: run `lifeboat verify` to see which points it harms.',
  })

export function recordNonce(slot: number): Uint8Array {
  const nonce = new Uint8Array(12)
  new DataView(nonce.buffer).setUint32(8, slot)
  return nonce
}

/** 88 bytes: the prefix, the record's slot, its content id. */
export function recordAad(prefix: Uint8Array, slot: number, id: Uint8Array): Uint8Array {
  const aad = new Uint8Array(AAD_BYTES)
  aad.set(prefix)
  new DataView(aad.buffer).setUint32(AAD_PREFIX_BYTES, slot)
  aad.set(id, AAD_PREFIX_BYTES + 4)
  return aad
}

export interface RecordPlace {
  readonly slot: number
  readonly id: Uint8Array
  readonly key: Uint8Array
  readonly aadPrefix: Uint8Array
}

/** `record` is the plaintext followed by 16 bytes, which receive the tag. */
export function sealRecord(record: Uint8Array, { slot, id, key, aadPrefix }: RecordPlace): void {
  const cipher = createCipheriv('aes-256-gcm', key, recordNonce(slot))
  cipher.setAAD(recordAad(aadPrefix, slot, id))
  const plaintext = record.subarray(0, record.length - RECORD_TAG)
  plaintext.set(cipher.update(plaintext))
  cipher.final()
  record.set(cipher.getAuthTag(), plaintext.length)
}

function decrypt(stored: Uint8Array, { slot, id, key, aadPrefix }: RecordPlace): Uint8Array | undefined {
  const decipher = createDecipheriv('aes-256-gcm', key, recordNonce(slot), { authTagLength: RECORD_TAG })
  decipher.setAAD(recordAad(aadPrefix, slot, id))
  decipher.setAuthTag(stored.subarray(stored.length - RECORD_TAG))
  const plaintext = decipher.update(stored.subarray(0, stored.length - RECORD_TAG))
  try {
    decipher.final()
  } catch {
    return undefined
  }
  return plaintext
}

/** The content of one record, or why there is none. `accepts` judges the length before anything of that size is allocated. */
export function openRecord(
  stored: Uint8Array,
  place: RecordPlace,
  accepts: (length: number) => boolean,
): Uint8Array | RecordFault {
  if (stored.length < RECORD_OVERHEAD) return 'short'
  const plaintext = decrypt(stored, place)
  if (!plaintext) return 'tag'
  const codec = plaintext[0]
  if (codec !== CODEC_STORED && codec !== CODEC_ZSTD) return 'codec'
  const length = (plaintext[1]! << 16) | (plaintext[2]! << 8) | plaintext[3]!
  if (!accepts(length)) return 'length'
  const payload = plaintext.subarray(RECORD_HEAD)
  if (codec === CODEC_STORED) return payload.length === length ? payload : 'length'
  return decompress(payload, length) ?? 'zstd'
}

function decompress(payload: Uint8Array, length: number): Uint8Array | undefined {
  if (!isSoleFrame(payload, length)) return undefined
  try {
    const content = zstdDecompressSync(payload, {
      maxOutputLength: Math.max(1, length),
      params: { [constants.ZSTD_d_windowLogMax]: 24 },
    })
    return content.length === length ? content : undefined
  } catch {
    return undefined
  }
}
