/** The footer of a pack (docs/repository-format.md, section 4) as sealed bytes; its rows are the repository's business. */
import { LifeboatError } from '../core/errors.ts'
import type { RepositoryId } from '../core/ids.ts'
import type { Random } from '../core/random.ts'
import { objectAad } from './aad.ts'
import { footerKey } from './derive.ts'
import { gcmOpen, gcmSeal, ZERO_NONCE } from './gcm.ts'

const SALT_BYTES = 16

export interface FooterPlace {
  readonly repository: RepositoryId
  /** The full key of the pack object. */
  readonly objectKey: string
}

/** `metadataKey`: that of the pack's domain and epoch. */
export function sealFooter(place: FooterPlace, metadataKey: Uint8Array, rows: Uint8Array, random: Random): Uint8Array {
  const salt = random(SALT_BYTES)
  const aad = objectAad(place.repository, 'footer', place.objectKey)
  return Buffer.concat([salt, gcmSeal(footerKey(metadataKey, salt), ZERO_NONCE, aad, rows)])
}

/** The rows. Throws 'corrupt-object' with the object's key. */
export function openFooter(place: FooterPlace, metadataKey: Uint8Array, footer: Uint8Array): Uint8Array {
  const salt = footer.subarray(0, SALT_BYTES)
  const aad = objectAad(place.repository, 'footer', place.objectKey)
  const rows = gcmOpen(footerKey(metadataKey, salt), ZERO_NONCE, aad, footer.subarray(SALT_BYTES))
  if (rows) return rows
  throw new LifeboatError('corrupt-object', `The footer of ${place.objectKey} does not authenticate`, {
    details: { object: place.objectKey },
    hint: 'The pack is damaged: run `lifeboat verify` to see which points it harms.',
  })
}
