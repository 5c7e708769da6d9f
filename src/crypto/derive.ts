/** Keys from keys (docs/repository-format.md, sections 1 to 4): HKDF-SHA-256 with 32 bytes of output everywhere. */
import { createSecretKey, hkdfSync, type KeyObject } from 'node:crypto'
import { type PackId, type RepositoryId, unhex } from '../core/ids.ts'
import type { RepositoryKeys } from './keys.ts'

export function hkdf(key: Uint8Array, salt: Uint8Array, info: string): Uint8Array {
  const object = keyObjects.get(key) ?? createSecretKey(key)
  keyObjects.set(key, object)
  return new Uint8Array(hkdfSync('sha256', object, salt, info, 32))
}

/** The few keys of a repository derive one for every object: a KeyObject at hand makes that 10 us instead of 25. Keys are never changed in place. */
const keyObjects = new WeakMap<Uint8Array, KeyObject>()

/** The repository key of an unencrypted repository: everybody has it, and the tags still find rot. */
export const publicRepositoryKey = (): Uint8Array => new Uint8Array(32)

export function repositoryKeys(repositoryKey: Uint8Array, repository: RepositoryId): RepositoryKeys {
  const salt = unhex(repository)
  return {
    repository,
    metadata: hkdf(repositoryKey, salt, 'lifeboat/1 metadata'),
    data: hkdf(repositoryKey, salt, 'lifeboat/1 data'),
    config: hkdf(repositoryKey, salt, 'lifeboat/1 config'),
    check: hkdf(repositoryKey, salt, 'lifeboat/1 check'),
    slots: slotMacKey(repositoryKey, repository),
  }
}

export const slotMacKey = (repositoryKey: Uint8Array, repository: RepositoryId): Uint8Array =>
  hkdf(repositoryKey, unhex(repository), 'lifeboat/1 slots')

export const envelopeKey = (key: Uint8Array, salt: Uint8Array): Uint8Array => hkdf(key, salt, 'lifeboat/1 envelope')
export const footerKey = (metadataKey: Uint8Array, salt: Uint8Array): Uint8Array =>
  hkdf(metadataKey, salt, 'lifeboat/1 footer')

/** `key` is the domain's data key for data packs and its metadata key for meta packs. */
export const slotKey = (key: Uint8Array, pack: PackId): Uint8Array => hkdf(key, unhex(pack), 'lifeboat/1 pack')
