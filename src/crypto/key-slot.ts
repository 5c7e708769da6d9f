/** `keys/<slot>` (docs/repository-format.md, section 2): the repository key under the wrapping key of one key file or passphrase. */
import { createHmac, scrypt } from 'node:crypto'
import { LifeboatError } from '../core/errors.ts'
import { hex, type RepositoryId, type SlotId, slotId, unhex } from '../core/ids.ts'
import { KiB, limits } from '../core/limits.ts'
import type { Random } from '../core/random.ts'
import type { AbortOptions } from '../core/scope.ts'
import { placeAad } from './aad.ts'
import { badDocument, type ClearDocument, FORMAT, parseDocument } from './clear-document.ts'
import { hkdf } from './derive.ts'
import { gcmOpen, gcmSeal } from './gcm.ts'
import type { Credential } from './keys.ts'

const SLOT_MAX_BYTES = 64 * KiB
const WRAPPED_BYTES = 48
const NONCE_BYTES = 12
const SALT_BYTES = 16

export interface ScryptCost {
  readonly N: number
  readonly r: number
  readonly p: number
}

interface SlotBase {
  readonly slot: SlotId
  readonly created: Date
  readonly nonce: Uint8Array
  readonly wrapped: Uint8Array
}

export type KeySlot =
  | (SlotBase & { readonly kind: 'file' })
  | (SlotBase & { readonly kind: 'passphrase'; readonly kdf: ScryptCost & { readonly salt: Uint8Array } })

export interface WrapRequest {
  readonly repository: RepositoryId
  readonly repositoryKey: Uint8Array
  readonly created: Date
  readonly random: Random
}

/** 128 MiB and a third of a second: what a person waits for, and an attacker pays for each guess. */
export const scryptDefault: ScryptCost = { N: 2 ** limits.scryptLogNDefault, r: 8, p: 1 }

export const keySlotObject = (slot: SlotId): string => `keys/${slot}`

/** The slot of a key file is found without a LIST. */
export const keyFileSlot = (secret: Uint8Array, repository: RepositoryId): SlotId => {
  const digest = createHmac('sha256', secret).update('lifeboat/1 slot').update(unhex(repository)).digest()
  return slotId(hex(digest.subarray(0, 8)))
}

export function wrapForKeyFile(secret: Uint8Array, request: WrapRequest): KeySlot {
  const slot = keyFileSlot(secret, request.repository)
  return { kind: 'file', ...wrap(slot, fileKey(secret, request.repository), request) }
}

export async function wrapForPassphrase(
  passphrase: string,
  request: WrapRequest,
  { cost = scryptDefault, signal }: { readonly cost?: ScryptCost } & AbortOptions = {},
): Promise<KeySlot> {
  const slot = slotId(hex(request.random(8)))
  const kdf = { ...cost, salt: request.random(SALT_BYTES) }
  const key = await passphraseKey(passphrase, kdf, { signal })
  return { kind: 'passphrase', kdf, ...wrap(slot, key, request) }
}

/** The repository key. Throws 'key-wrong' where the credential does not open this slot. */
export async function unwrapKeySlot(
  slot: KeySlot,
  credential: Credential,
  repository: RepositoryId,
  options: AbortOptions = {},
): Promise<Uint8Array> {
  const key = await wrappingKey(slot, credential, repository, options)
  const repositoryKey = key && gcmOpen(key, slot.nonce, slotAad(repository, slot.slot), slot.wrapped)
  if (repositoryKey) return repositoryKey
  throw new LifeboatError('key-wrong', `The ${nameOf(credential)} does not open ${keySlotObject(slot.slot)}`, {
    details: { object: keySlotObject(slot.slot), repository },
    hint: 'Use the key file or passphrase that was made for this repository.',
  })
}

export function encodeKeySlot(slot: KeySlot): Uint8Array {
  const { kind, created, nonce, wrapped } = slot
  const head = { format: FORMAT, slot: slot.slot, kind, created: created.toISOString() }
  const kdf = slot.kind === 'file' ? {} : { kdf: { name: 'scrypt', ...slot.kdf, salt: hex(slot.kdf.salt) } }
  return new TextEncoder().encode(JSON.stringify({ ...head, ...kdf, nonce: hex(nonce), wrapped: hex(wrapped) }))
}

/** `object` is the key under which it was found; it must be that of the slot. scrypt's costs are bounded here, before they are paid. */
export function parseKeySlot(bytes: Uint8Array, object: string): KeySlot {
  const document = parseDocument(bytes, object, SLOT_MAX_BYTES)
  const base = {
    slot: slotId(hex(document.bytes('slot', 8))),
    created: document.date('created'),
    nonce: document.bytes('nonce', NONCE_BYTES),
    wrapped: document.bytes('wrapped', WRAPPED_BYTES),
  }
  if (keySlotObject(base.slot) !== object) throw badDocument(object, `says that it is ${keySlotObject(base.slot)}`)
  const kind = document.text('kind')
  if (kind === 'file') return { kind, ...base }
  if (kind === 'passphrase') return { kind, kdf: parseKdf(document.object('kdf'), object), ...base }
  throw badDocument(object, 'has an unknown kind')
}

function parseKdf(kdf: ClearDocument, object: string): ScryptCost & { readonly salt: Uint8Array } {
  if (kdf.text('name') !== 'scrypt') throw badDocument(object, 'names an unknown key derivation')
  const [N, r, p] = [kdf.number('N'), kdf.number('r'), kdf.number('p')]
  const bounded = N >= 2 && N <= 2 ** limits.scryptLogNMax && r >= 1 && r <= 16 && p >= 1 && p <= 4
  if (!bounded || !Number.isInteger(Math.log2(N)))
    throw new LifeboatError('absurd-object', `${object} asks for scrypt with N ${N}, r ${r}, p ${p}`, {
      details: { object },
      hint: 'The object was damaged or planted: remove it and use another key slot.',
    })
  return { N, r, p, salt: kdf.bytes('salt', [16, 64]) }
}

function wrap(slot: SlotId, key: Uint8Array, { repository, repositoryKey, created, random }: WrapRequest): SlotBase {
  const nonce = random(NONCE_BYTES)
  return { slot, created, nonce, wrapped: gcmSeal(key, nonce, slotAad(repository, slot), repositoryKey) }
}

const slotAad = (repository: RepositoryId, slot: SlotId): Uint8Array =>
  placeAad(repository, new TextEncoder().encode('key\0'), unhex(slot))

const nameOf = (credential: Credential): string =>
  credential.kind === 'none' ? 'public key' : credential.kind === 'file' ? 'key file' : 'passphrase'

const fileKey = (secret: Uint8Array, repository: RepositoryId): Uint8Array =>
  hkdf(secret, unhex(repository), 'lifeboat/1 key file')

async function wrappingKey(
  slot: KeySlot,
  credential: Credential,
  repository: RepositoryId,
  options: AbortOptions,
): Promise<Uint8Array | undefined> {
  if (slot.kind === 'file' && credential.kind === 'file') return fileKey(credential.secret, repository)
  if (slot.kind === 'passphrase' && credential.kind === 'passphrase')
    return passphraseKey(credential.passphrase, slot.kdf, options)
  return undefined
}

/** scrypt cannot be interrupted, only left unused. */
async function passphraseKey(
  passphrase: string,
  { N, r, p, salt }: ScryptCost & { readonly salt: Uint8Array },
  { signal }: AbortOptions,
): Promise<Uint8Array> {
  signal?.throwIfAborted()
  const maxmem = 128 * r * (N + p + 2) + KiB
  const key = await new Promise<Uint8Array>((resolve, reject) => {
    scrypt(passphrase.normalize('NFC'), salt, 32, { N, r, p, maxmem }, (error, derived) =>
      error ? reject(error) : resolve(derived),
    )
  })
  signal?.throwIfAborted()
  return key
}
