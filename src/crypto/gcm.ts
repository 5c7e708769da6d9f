/** AES-256-GCM with a key that seals one thing only, so that the nonce may be zero. */
import { createCipheriv, createDecipheriv } from 'node:crypto'

export const GCM_TAG = 16
export const ZERO_NONCE: Uint8Array = new Uint8Array(12)

/** Ciphertext followed by the tag, in fresh memory. */
export function gcmSeal(key: Uint8Array, nonce: Uint8Array, aad: Uint8Array, plaintext: Uint8Array): Uint8Array {
  const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(aad)
  const sealed = new Uint8Array(plaintext.length + GCM_TAG)
  sealed.set(cipher.update(plaintext))
  cipher.final()
  sealed.set(cipher.getAuthTag(), plaintext.length)
  return sealed
}

/** Undefined where it does not authenticate. */
export function gcmOpen(
  key: Uint8Array,
  nonce: Uint8Array,
  aad: Uint8Array,
  sealed: Uint8Array,
): Uint8Array | undefined {
  if (sealed.length < GCM_TAG) return undefined
  const end = sealed.length - GCM_TAG
  const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: GCM_TAG }).setAAD(aad)
  decipher.setAuthTag(sealed.subarray(end))
  const plaintext = decipher.update(sealed.subarray(0, end))
  try {
    decipher.final()
  } catch {
    return undefined
  }
  return plaintext
}
