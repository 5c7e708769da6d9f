/** The envelope (docs/repository-format.md, section 3): how every object except packs is sealed for its key. */
import { LifeboatError } from '../core/errors.ts'
import type { RepositoryId } from '../core/ids.ts'
import type { Random } from '../core/random.ts'
import { objectAad } from './aad.ts'
import { envelopeKey } from './derive.ts'
import { GCM_TAG, gcmOpen, gcmSeal, ZERO_NONCE } from './gcm.ts'
import type { EnvelopeKind } from './keys.ts'

const MAGIC = new TextEncoder().encode('LBE1')
const SALT_BYTES = 16
const HEAD_BYTES = MAGIC.length + SALT_BYTES

export const ENVELOPE_OVERHEAD = HEAD_BYTES + GCM_TAG

export interface EnvelopePlace {
  readonly repository: RepositoryId
  readonly kind: EnvelopeKind
  /** The full key under which the object is stored. */
  readonly objectKey: string
}

/** `key`: the repository's metadata key, but for kind 'domain-data' its data key. */
export function sealEnvelope(place: EnvelopePlace, key: Uint8Array, plaintext: Uint8Array, random: Random): Uint8Array {
  const salt = random(SALT_BYTES)
  const aad = objectAad(place.repository, place.kind, place.objectKey)
  return Buffer.concat([MAGIC, salt, gcmSeal(envelopeKey(key, salt), ZERO_NONCE, aad, plaintext)])
}

/** Throws 'corrupt-object' with the object's key. */
export function openEnvelope(place: EnvelopePlace, key: Uint8Array, bytes: Uint8Array): Uint8Array {
  if (bytes.length < ENVELOPE_OVERHEAD || Buffer.compare(bytes.subarray(0, MAGIC.length), MAGIC) !== 0)
    throw corrupt(place, 'is not an envelope')
  const salt = bytes.subarray(MAGIC.length, HEAD_BYTES)
  const aad = objectAad(place.repository, place.kind, place.objectKey)
  const plaintext = gcmOpen(envelopeKey(key, salt), ZERO_NONCE, aad, bytes.subarray(HEAD_BYTES))
  if (!plaintext) throw corrupt(place, 'does not authenticate')
  return plaintext
}

const corrupt = ({ objectKey, kind }: EnvelopePlace, what: string): LifeboatError =>
  new LifeboatError('corrupt-object', `${objectKey} (${kind}) ${what}`, {
    details: { object: objectKey, kind },
    hint: 'The stored object is damaged or was put in the place of another: restore it from a copy of the repository.',
  })
