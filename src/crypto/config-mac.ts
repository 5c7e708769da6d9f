/**
 * The `config` document (docs/repository-format.md, section 1). It is clear, because it must be read before any key is
 * there, so it is not to be believed until `verifyConfig` has returned.
 */
import { createHmac, timingSafeEqual } from 'node:crypto'
import { type DomainId, domainId, hex, type RepositoryId, repositoryId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import { badDocument, type ClearDocument, FORMAT, parseDocument } from './clear-document.ts'
import type { RepositoryKeys } from './keys.ts'

const OBJECT = 'config'
const MAC_BYTES = 32
const CHECK_BYTES = 16
const MAC_MEMBER = ',"mac":"'
const TAIL_BYTES = MAC_MEMBER.length + MAC_BYTES * 2 + 2

export type Encryption = 'aes-256-gcm' | 'none'

export interface RepositoryConfig {
  readonly repository: RepositoryId
  readonly created: Date
  readonly chunkSize: number
  readonly encryption: Encryption
  /** The default domain. */
  readonly domain: DomainId
  /** What the store was seen to honour; for people. */
  readonly store: Readonly<Record<string, unknown>>
  /** Absent: nothing is locked. */
  readonly lock?: ConfigLock
}

export interface ConfigLock {
  readonly mode: 'governance' | 'compliance'
  readonly forMs: number
  readonly renewEveryMs: number
}

export interface UnverifiedConfig {
  readonly config: RepositoryConfig
  readonly keyCheck: Uint8Array
  readonly mac: Uint8Array
  /** The bytes that the MAC covers. */
  readonly signed: Uint8Array
}

export function encodeConfig(config: RepositoryConfig, keys: RepositoryKeys): Uint8Array {
  const json = JSON.stringify({
    format: FORMAT,
    repository: config.repository,
    created: config.created.toISOString(),
    chunkSize: config.chunkSize,
    encryption: config.encryption,
    id: 'hmac-sha-256',
    compression: 'zstd',
    domain: config.domain,
    keyCheck: hex(keys.check.subarray(0, CHECK_BYTES)),
    store: config.store,
    ...(config.lock ? { lock: config.lock } : {}),
  })
  const signed = new TextEncoder().encode(json.slice(0, -1))
  return Buffer.concat([signed, new TextEncoder().encode(`${MAC_MEMBER}${hex(macOf(signed, keys))}"}`)])
}

/** Throws 'newer-format' before it looks at anything else, then 'corrupt-object' or 'absurd-object'. */
export function parseConfig(bytes: Uint8Array): UnverifiedConfig {
  const document = parseDocument(bytes, OBJECT, limits.controlObjectMax)
  const signed = bytes.subarray(0, Math.max(0, bytes.length - TAIL_BYTES))
  const mac = document.bytes('mac', MAC_BYTES)
  const tail = new TextDecoder().decode(bytes.subarray(signed.length))
  if (tail !== `${MAC_MEMBER}${hex(mac)}"}`) throw badDocument(OBJECT, 'does not end with its MAC')
  only(document, 'id', ['hmac-sha-256'])
  only(document, 'compression', ['zstd'])
  const config = {
    repository: repositoryId(hex(document.bytes('repository', 16))),
    created: document.date('created'),
    chunkSize: chunkSizeOf(document),
    encryption: only(document, 'encryption', ['aes-256-gcm', 'none']),
    domain: domainId(hex(document.bytes('domain', 8))),
    store: document.object('store').members,
    ...(document.members.lock === undefined ? {} : { lock: lockOf(document.object('lock')) }),
  }
  return { config, keyCheck: document.bytes('keyCheck', CHECK_BYTES), mac, signed }
}

/**
 * Throws 'corrupt-object'. The keys need no further proof: their slot was sealed for this repository's id, or they are public. So
 * where they do not fit, `config` has rotted, and telling somebody with the right key to look for another would be a second disaster.
 */
export function verifyConfig(unverified: UnverifiedConfig, keys: RepositoryKeys): RepositoryConfig {
  const { config, keyCheck, mac, signed } = unverified
  const keysFit = timingSafeEqual(keyCheck, keys.check.subarray(0, CHECK_BYTES))
  if (keysFit && timingSafeEqual(mac, macOf(signed, keys))) return config
  throw badDocument(OBJECT, 'does not authenticate')
}

const macOf = (signed: Uint8Array, keys: RepositoryKeys): Uint8Array =>
  createHmac('sha256', keys.config).update(signed).digest()

const lockOf = (lock: ClearDocument): ConfigLock => ({
  mode: only(lock, 'mode', ['governance', 'compliance']),
  forMs: lock.number('forMs'),
  renewEveryMs: lock.number('renewEveryMs'),
})

function only<T extends string>(document: ClearDocument, name: string, known: readonly T[]): T {
  const text = document.text(name)
  const value = known.find(candidate => candidate === text)
  if (value === undefined) throw badDocument(OBJECT, `has an unknown '${name}'`)
  return value
}

function chunkSizeOf(document: ClearDocument): number {
  const size = document.number('chunkSize')
  const known = size >= limits.chunkSizeMin && size <= limits.chunkSizeMax && Number.isInteger(Math.log2(size))
  if (!known) throw badDocument(OBJECT, `has the chunk size ${size}`)
  return size
}
