/** `keys/<slot>` (docs/repository-format.md, section 2): the repository key under one wrapping key. */
import { createHmac, scrypt, timingSafeEqual } from 'node:crypto'
import { LifeboatError } from '../core/errors.ts'
import { hex, type RepositoryId, type SlotId, slotId, unhex } from '../core/ids.ts'
import { KiB, limits } from '../core/limits.ts'
import type { Random } from '../core/random.ts'
import type { AbortOptions } from '../core/scope.ts'
import { placeAad } from './aad.ts'
import { badDocument, type ClearDocument, FORMAT, parseDocument } from './clear-document.ts'
import { hkdf, slotMacKey } from './derive.ts'
import { gcmOpen, gcmSeal } from './gcm.ts'
import type { Credential, KeptCredential, RepositoryKeys } from './keys.ts'

const SLOT_MAX_BYTES = 64 * KiB
const WRAPPED_BYTES = 48
const NONCE_BYTES = 12
const SALT_BYTES = 16
const MAC_BYTES = 32
const SECRET_BYTES = 32
const LABEL_MAX = 200

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
  /** By a holder of the repository key. Absent in slots that were made before there was one. */
  readonly mac?: Uint8Array
}

interface PassphraseKdf extends ScryptCost {
  readonly salt: Uint8Array
}

type SlotKind =
  | { readonly kind: 'file' }
  | { readonly kind: 'passphrase'; readonly kdf: PassphraseKdf }
  /** `blob`: what the keeper made of the secret from which the wrapping key is derived. */
  | { readonly kind: 'command' | 'pkcs11'; readonly label: string; readonly blob: Uint8Array }

export type KeySlot = SlotBase & SlotKind

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
  return wrap(slot, { kind: 'file' }, fileKey(secret, request.repository), request)
}

export async function wrapForPassphrase(
  passphrase: string,
  request: WrapRequest,
  { cost = scryptDefault, signal }: { readonly cost?: ScryptCost } & AbortOptions = {},
): Promise<KeySlot> {
  const slot = slotId(hex(request.random(8)))
  const kdf = { ...cost, salt: request.random(SALT_BYTES) }
  const key = await passphraseKey(passphrase, kdf, { signal })
  return wrap(slot, { kind: 'passphrase', kdf }, key, request)
}

/** The keeper sees a fresh secret and never the repository key; what binds the slot to its place is done here. */
async function wrapForKeeper(
  { kind, label, keeper }: KeptCredential,
  request: WrapRequest,
  options: AbortOptions,
): Promise<KeySlot> {
  const slot = slotId(hex(request.random(8)))
  const secret = request.random(SECRET_BYTES)
  const blob = await keeper.wrap(secret, { repository: request.repository, slot }, options)
  if (blob.length === 0 || blob.length > limits.keyBlobMax)
    throw new LifeboatError('key-unavailable', `The ${kind} key wrapped a secret into ${blob.length} bytes`, {
      hint: `It should give 1 to ${limits.keyBlobMax} bytes on its standard output.`,
    })
  const kept = { kind, label: label.slice(0, LABEL_MAX), blob }
  return wrap(slot, kept, keptKey(kind, secret, request.repository), request)
}

/** Undefined for 'none': an unencrypted repository has no slots. */
export async function wrapFor(
  credential: Credential,
  request: WrapRequest,
  options: { readonly cost?: ScryptCost } & AbortOptions = {},
): Promise<KeySlot | undefined> {
  if (credential.kind === 'file') return wrapForKeyFile(credential.secret, request)
  if (credential.kind === 'passphrase') return wrapForPassphrase(credential.passphrase, request, options)
  return credential.kind === 'none' ? undefined : wrapForKeeper(credential, request, options)
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
    hint: 'Use a key that was made for this repository.',
  })
}

export function encodeKeySlot(slot: KeySlot): Uint8Array {
  const members = textOf(slot)
  return new TextEncoder().encode(slot.mac ? `${members.slice(0, -1)},"mac":"${hex(slot.mac)}"}` : members)
}

/** Whether a holder of the repository key made this slot: anything else may open nothing, whatever it looks like. */
export const isVouchedFor = (slot: KeySlot, keys: RepositoryKeys): boolean =>
  slot.mac !== undefined && timingSafeEqual(slot.mac, macOf(slot, keys.slots))

/** All bytes of the object but the MAC and the brace that ends it. */
const macOf = (slot: KeySlot, key: Uint8Array): Uint8Array =>
  new Uint8Array(createHmac('sha256', key).update(textOf(slot).slice(0, -1)).digest())

function textOf(slot: KeySlot): string {
  const head = { format: FORMAT, slot: slot.slot, kind: slot.kind, created: slot.created.toISOString() }
  const own = () => {
    if (slot.kind === 'file') return {}
    if (slot.kind === 'passphrase') return { kdf: { name: 'scrypt', ...slot.kdf, salt: hex(slot.kdf.salt) } }
    return { label: slot.label, blob: hex(slot.blob) }
  }
  return JSON.stringify({ ...head, ...own(), nonce: hex(slot.nonce), wrapped: hex(slot.wrapped) })
}

/** `object` is the key under which it was found; it must be that of the slot. scrypt's costs are bounded here, before they are paid. */
export function parseKeySlot(bytes: Uint8Array, object: string): KeySlot {
  const document = parseDocument(bytes, object, SLOT_MAX_BYTES)
  const base = {
    slot: slotId(hex(document.bytes('slot', 8))),
    created: document.date('created'),
    nonce: document.bytes('nonce', NONCE_BYTES),
    wrapped: document.bytes('wrapped', WRAPPED_BYTES),
    ...('mac' in document.members ? { mac: document.bytes('mac', MAC_BYTES) } : {}),
  }
  if (keySlotObject(base.slot) !== object) throw badDocument(object, `says that it is ${keySlotObject(base.slot)}`)
  const kind = document.text('kind')
  if (kind === 'file') return { kind, ...base }
  if (kind === 'passphrase') return { kind, kdf: parseKdf(document.object('kdf'), object), ...base }
  if (kind === 'command' || kind === 'pkcs11') {
    const label = document.text('label')
    if (label.length > LABEL_MAX) throw badDocument(object, 'has an endless label')
    return { kind, label, blob: document.bytes('blob', [1, limits.keyBlobMax]), ...base }
  }
  throw badDocument(object, 'has an unknown kind')
}

function parseKdf(kdf: ClearDocument, object: string): PassphraseKdf {
  if (kdf.text('name') !== 'scrypt') throw badDocument(object, 'names an unknown key derivation')
  const [N, r, p] = [kdf.number('N'), kdf.number('r'), kdf.number('p')]
  const bounded = N >= 2 && N <= 2 ** limits.scryptLogNMax && r >= 1 && r <= 16 && p >= 1 && p <= 4
  if (!bounded || !Number.isInteger(Math.log2(N)) || N * r > limits.scryptBlocksMax)
    throw new LifeboatError('absurd-object', `${object} asks for scrypt with N ${N}, r ${r}, p ${p}`, {
      details: { object },
      hint: 'The object was damaged or planted: remove it and use another key slot.',
    })
  return { N, r, p, salt: kdf.bytes('salt', [16, 64]) }
}

function wrap(slot: SlotId, kind: SlotKind, key: Uint8Array, request: WrapRequest): KeySlot {
  const { repository, repositoryKey, created, random } = request
  const nonce = random(NONCE_BYTES)
  const wrapped = gcmSeal(key, nonce, slotAad(repository, slot), repositoryKey)
  const unvouched = { ...kind, slot, created, nonce, wrapped }
  return { ...unvouched, mac: macOf(unvouched, slotMacKey(repositoryKey, repository)) }
}

const slotAad = (repository: RepositoryId, slot: SlotId): Uint8Array =>
  placeAad(repository, new TextEncoder().encode('key\0'), unhex(slot))

const NAMES = {
  none: 'public key',
  file: 'key file',
  passphrase: 'passphrase',
  command: 'key command',
  pkcs11: 'key of the token',
} as const

/** How people call it. */
export const nameOf = ({ kind }: Pick<Credential, 'kind'>): string => NAMES[kind]

const fileKey = (secret: Uint8Array, repository: RepositoryId): Uint8Array =>
  hkdf(secret, unhex(repository), 'lifeboat/1 key file')

const keptKey = (kind: KeptCredential['kind'], secret: Uint8Array, repository: RepositoryId): Uint8Array =>
  hkdf(secret, unhex(repository), `lifeboat/1 key ${kind}`)

async function wrappingKey(
  slot: KeySlot,
  credential: Credential,
  repository: RepositoryId,
  options: AbortOptions,
): Promise<Uint8Array | undefined> {
  if (slot.kind === 'file' && credential.kind === 'file') return fileKey(credential.secret, repository)
  if (slot.kind === 'passphrase' && credential.kind === 'passphrase')
    return passphraseKey(credential.passphrase, slot.kdf, options)
  if (slot.kind === 'command' || slot.kind === 'pkcs11') {
    if (credential.kind !== slot.kind) return undefined
    const place = { repository, slot: slot.slot }
    return keptKey(slot.kind, await credential.keeper.unwrap(slot.blob, place, options), repository)
  }
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
