/** Makes a repository: slot, domain keys, and `config` last. Until that one is there, nothing that was written counts. */
import type { Clock } from '../core/clock.ts'
import { isLifeboatError, LifeboatError } from '../core/errors.ts'
import { domainId, hex, type RepositoryId, repositoryId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { Random } from '../core/random.ts'
import type { AbortOptions } from '../core/scope.ts'
import { encodeConfig } from '../crypto/config-mac.ts'
import { publicRepositoryKey, repositoryKeys } from '../crypto/derive.ts'
import { newDomainKeys, sealDomainKeys } from '../crypto/domain-keys.ts'
import { encodeKeySlot, type ScryptCost, wrapFor } from '../crypto/key-slot.ts'
import type { Credential } from '../crypto/keys.ts'
import type { ObjectStore, StoreCapabilities } from '../storage/object-store.ts'
import { probeStore } from '../storage/probe.ts'
import type { ObjectVersion, VersionedStore } from '../storage/versioned-store.ts'
import { refuseClockSkew } from './clock-skew.ts'
import { getBounded } from './control-object.ts'
import { withData } from './keyring.ts'
import { checkLockPolicy, type LockPolicy } from './lock-policy.ts'
import { lockedStore } from './locked-store.ts'
import { configKey, domainKeysKey, keysPrefix, slotKey } from './object-keys.ts'
import { isChunkSize } from './tree-geometry.ts'
import { unhidden } from './unhidden.ts'

export interface InitRequest extends AbortOptions {
  readonly store: ObjectStore
  /**
   * 'none' makes an unencrypted repository: the caller has said so loudly. A function is called when the place was found empty,
   * so that a refused init makes no key, and before anything is written there.
   */
  readonly credential: Credential | (() => Promise<Credential>)
  readonly chunkSize?: number
  /** Needs a store with versions and Object Lock. */
  readonly lock?: LockPolicy
  readonly random: Random
  readonly clock: Clock
  /** Of a passphrase; lower only where the repository holds nothing of value. */
  readonly scryptCost?: ScryptCost
}

export interface InitResult {
  readonly repository: RepositoryId
  readonly format: 1
  readonly chunkSize: number
  readonly encryption: 'aes-256-gcm' | 'none'
  readonly store: StoreCapabilities
  readonly lock?: LockPolicy
}

const PROBE_PREFIX = 'probe/'

/** Throws 'repository-exists' for a place that holds anything but the remains of an init that never finished. */
export async function initRepository(request: InitRequest): Promise<InitResult> {
  const { chunkSize = limits.chunkSizeDefault, lock, random, clock, signal } = request
  if (!isChunkSize(chunkSize))
    throw new LifeboatError('usage', `a chunk size of ${chunkSize} bytes is not possible`, {
      hint: 'Use a power of two from 4 KiB to 4 MiB.',
    })
  if (lock) checkLockPolicy(lock)
  // What somebody has hidden in a bucket that locks is there for all that.
  await refuseNonEmpty(lock ? unhidden(request.store) : request.store, { signal })
  const credential = typeof request.credential === 'function' ? await request.credential() : request.credential
  const capabilities = await probeStore(request.store, `${PROBE_PREFIX}${hex(random(8))}/`, { signal })
  refuseUnsuitable(request.store, capabilities, lock)
  if (lock) await refuseClockSkew({ store: request.store, clock }, { signal })
  const store = lock ? lockedStore(request.store, lock, clock) : request.store

  const repository = repositoryId(hex(random(16)))
  const domain = domainId(hex(random(8)))
  const encryption = credential.kind === 'none' ? 'none' : 'aes-256-gcm'
  const repositoryKey = credential.kind === 'none' ? publicRepositoryKey() : random(32)
  const keys = repositoryKeys(repositoryKey, repository)
  const created = clock.now()
  const wrapping = { repository, repositoryKey, created, random }
  const slot = await wrapFor(credential, wrapping, { cost: request.scryptCost, signal })
  const ours = [...(slot ? [slotKey(slot.slot)] : []), domainKeysKey(domain, 0)]
  if (slot) await store.put(slotKey(slot.slot), [encodeKeySlot(slot)], { signal })
  const domainKeys = sealDomainKeys(newDomainKeys(domain, 0, random), withData(keys), random)
  await store.put(domainKeysKey(domain, 0), [domainKeys], { signal })

  const described = { repository, created, chunkSize, encryption, domain, store: { ...capabilities }, lock } as const
  if (!(await putConfig(store, encodeConfig(described, keys), { signal }))) {
    // What a lock keeps lies there without harm: its names are nobody else's.
    await store.delete(ours, { signal }).catch(() => {})
    throw exists(request.store, configKey)
  }
  return { repository, format: 1, chunkSize, encryption, store: capabilities, ...(lock ? { lock } : {}) }
}

/** What would break the repository later is refused while nothing is in it. */
function refuseUnsuitable({ url }: ObjectStore, found: StoreCapabilities, lock: LockPolicy | undefined): void {
  const { concerns = [] } = found
  const all = (texts: readonly string[]) => [...new Set(texts)].join(' ')
  if (concerns.length > 0)
    throw new LifeboatError('store-unsuitable', `${url}: ${all(concerns.map(({ message }) => `${message}.`))}`, {
      details: { concerns: concerns.map(({ what }) => what) },
      hint: all(concerns.map(({ hint }) => hint)),
    })
  if (!lock || (found.objectLock && found.versioning)) return
  throw new LifeboatError('store-unsuitable', `${url} cannot lock objects: it has no ${missingFor(found)}`, {
    details: { versioning: found.versioning, objectLock: found.objectLock },
    hint: 'Object Lock is switched on when a bucket is made: make a new one with it, or leave out --lock-mode.',
  })
}

const missingFor = ({ versioning, objectLock }: StoreCapabilities): string =>
  [...(versioning ? [] : ['versioning']), ...(objectLock ? [] : ['Object Lock'])].join(' and no ')

/** Keys without a config belong to nobody: those of an init that was interrupted, or of one that is at work and will find our config. */
async function refuseNonEmpty(store: ObjectStore, options: AbortOptions): Promise<void> {
  for await (const { key } of store.list('', options))
    if (!key.startsWith(keysPrefix) && !key.startsWith(PROBE_PREFIX)) {
      // What a repository holds beside its config comes first in a listing.
      const isRepository = (await store.head(configKey, options)) !== undefined
      throw exists(store, isRepository ? configKey : key)
    }
}

const exists = (store: ObjectStore, key: string): LifeboatError =>
  key === configKey
    ? new LifeboatError('repository-exists', `There is a repository in ${store.url} already`, {
        details: { object: key },
        hint: 'Use it, or choose an empty place.',
      })
    : new LifeboatError('repository-exists', `${store.url} is not empty: it holds '${key}'`, {
        details: { object: key },
        hint: 'Choose an empty folder or prefix.',
      })

/**
 * Whether it is ours that counts now. Not every store honours `ifAbsent`, so what is there afterwards decides: where keys keep
 * versions the oldest one, so that of two at once each sees the same; elsewhere the last. (There the one that was
 * overtaken within its last request is told by its first command that the key opens nothing; it has stored nothing yet.)
 */
async function putConfig(store: ObjectStore, config: Uint8Array, options: AbortOptions): Promise<boolean> {
  try {
    await store.put(configKey, [config], { ifAbsent: true, ...options })
  } catch (error) {
    if (!isLifeboatError(error, 'store-conflict')) throw error
    // Perhaps by ourselves: the first answer was lost.
  }
  const isOurs = (bytes: Uint8Array) => Buffer.compare(bytes, config) === 0
  const { versioned } = store
  const [oldest, ...later] = versioned ? await presentVersions(versioned, options) : []
  if (!versioned || !oldest) {
    const stored = await getBounded(store, configKey, limits.controlObjectMax, options)
    return stored !== undefined && isOurs(stored)
  }
  const read = ({ versionId }: ObjectVersion) => versioned.getVersion(configKey, versionId, undefined, options)
  const first = await read(oldest)
  if (isOurs(first)) return true
  for (const version of later)
    if (isOurs(await read(version))) await withdraw(store, versioned, version, first, options)
  return false
}

/** Those of `config` that no delete marker lies over, the oldest first. None where this user may not ask. */
async function presentVersions(versioned: VersionedStore, options: AbortOptions): Promise<readonly ObjectVersion[]> {
  const found: ObjectVersion[] = []
  try {
    for await (const version of versioned.versions(configKey, options)) {
      if (version.key !== configKey || version.isDeleteMarker) break
      found.push(version)
    }
  } catch (error) {
    if (!isLifeboatError(error, 'store-denied') && !isLifeboatError(error, 'store-failed')) throw error
    return []
  }
  return found.reverse()
}

/** Ours must not lie over the config that counts. Where a lock keeps it, that one goes on top again. */
async function withdraw(
  store: ObjectStore,
  versioned: VersionedStore,
  { versionId }: ObjectVersion,
  first: Uint8Array,
  options: AbortOptions,
): Promise<void> {
  try {
    await versioned.deleteVersion(configKey, versionId, options)
  } catch (error) {
    if (!isLifeboatError(error, 'store-locked')) throw error
    await store.put(configKey, [first], options)
  }
}
