/** Opens a repository: `config`, then its key slot and the default domain's keys at once. */
import type { Clock } from '../core/clock.ts'
import { isIntegrityError, isLifeboatError, LifeboatError } from '../core/errors.ts'
import { type DomainId, hex, type SlotId } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { Random } from '../core/random.ts'
import type { AbortOptions } from '../core/scope.ts'
import { parseConfig, type RepositoryConfig, type UnverifiedConfig, verifyConfig } from '../crypto/config-mac.ts'
import type { Credential } from '../crypto/keys.ts'
import type { Pipeline } from '../native/pipeline.ts'
import type { ObjectStore, StoreCapabilities } from '../storage/object-store.ts'
import { firstKeys, twice } from './authentic.ts'
import { ChunkFetcher } from './chunk-fetcher.ts'
import { controlObjects, getBounded } from './control-object.ts'
import { type Keyring, keyring, unlock } from './keyring.ts'
import { lockedStore } from './locked-store.ts'
import { configKey, domainKeysKey, pinKey } from './object-keys.ts'
import { beginPoint } from './point-writer.ts'
import { listPoints } from './points.ts'
import type { RecordCache } from './record-cache.ts'
import { RecordReader } from './record-reader.ts'
import { openRecoveryPoint, type ReadContext } from './recovery-point.ts'
import type { Repository } from './repository.ts'
import { readStoredManifest } from './stored-manifest.ts'
import { unhidden } from './unhidden.ts'

/** What a host remembers of a repository at first use, so that it notices when `config` is exchanged. */
export interface RepositoryIdentity {
  readonly repository: string
  readonly encryption: 'aes-256-gcm' | 'none'
  /** Hex; tells nothing about the key. */
  readonly keyCheck: string
}

export interface OpenRequest extends AbortOptions {
  /** Stays the caller's: disposing the repository leaves it open. */
  readonly store: ObjectStore
  /** Absent: none was given, which is right for an unencrypted repository only. */
  readonly credential?: Credential
  readonly clock: Clock
  readonly random: Random
  /** Named in leases, pins and manifests, for people. */
  readonly host: string
  readonly pipeline: Pipeline
  readonly leaseExpiryMs?: number
  readonly pinned?: RepositoryIdentity
  /** Looked into before the store is asked for records. Not for who examines what the store holds. */
  readonly recordCache?: RecordCache
}

export interface OpenedRepository extends Repository {
  readonly identity: RepositoryIdentity
  /** The key slot that the credential opened; undefined where nothing is encrypted. */
  readonly slot: SlotId | undefined
  /** The default domain. */
  readonly domain: DomainId
  /** For verify, diff and maintenance, which work on what lies below points. */
  readonly reading: ReadContext
}

/** Throws 'not-a-repository', 'newer-format', 'key-missing', 'key-wrong', or an integrity error that names the object. */
export async function openRepository(request: OpenRequest): Promise<OpenedRepository> {
  const store = unhidden(request.store)
  try {
    return await twice(() => openAs(request, store))
  } catch (error) {
    const { versioned } = store
    if (!versioned || !mayBeShadowed(error) || !(await versioned.features(request)).versioning) throw error
    // Somebody may have put another config or other slots over ours. If the first ones open nothing either, it was not that.
    return await openAs(request, firstKeys(store, versioned)).catch(() => {
      throw error
    })
  }
}

const mayBeShadowed = (error: unknown): boolean =>
  isIntegrityError(error) || isLifeboatError(error, 'key-wrong') || isLifeboatError(error, 'newer-format')

async function openAs(request: OpenRequest, store: ObjectStore): Promise<OpenedRepository> {
  const { credential = { kind: 'none' }, signal } = request
  const unverified = parseConfig(await readConfig(store, request.pinned, { signal }))
  const identity = identityOf(unverified)
  refuseExchanged(identity, request.pinned)
  const { domain } = unverified.config
  const [unlocked, domainBytes] = await Promise.allSettled([
    unlock(store, unverified, credential, { signal }),
    getBounded(store, domainKeysKey(domain, 0), limits.controlObjectMax, { signal }),
  ])
  signal?.throwIfAborted()
  if (unlocked.status === 'rejected') throw unlocked.reason
  const { keys, slot } = unlocked.value
  const config = verifyConfig(unverified, keys)
  const ring = keyring(store, keys)
  // Missing or unreadable, they are asked for again by whoever needs them, and named in that error.
  if (domainBytes.status === 'fulfilled' && domainBytes.value) adoptQuietly(ring, domain, domainBytes.value)
  return assemble({ ...request, store: promised(store, request, config) }, config, identity, ring, slot)
}

/** The store with what the repository promises of it. Where keys have no versions there is nothing to look for under a marker. */
function promised(store: ObjectStore, request: OpenRequest, { lock, store: seen }: RepositoryConfig): ObjectStore {
  if (lock) return lockedStore(store, lock, request.clock)
  return seen.versioning === true ? store : request.store
}

async function readConfig(
  store: ObjectStore,
  pinned: RepositoryIdentity | undefined,
  options: AbortOptions,
): Promise<Uint8Array> {
  const bytes = await getBounded(store, configKey, limits.controlObjectMax, options)
  if (bytes) return bytes
  if (pinned)
    throw new LifeboatError(
      'missing-object',
      `${store.url} was repository ${pinned.repository} and has no '${configKey}' now`,
      {
        details: { object: configKey },
        hint: 'Check that its disk is mounted. If it is, restore `config` from a copy of the repository; if the repository was removed, `lifeboat init` makes a new one.',
      },
    )
  throw new LifeboatError('not-a-repository', `${store.url} is not a Lifeboat repository: it has no '${configKey}'`, {
    details: { object: configKey },
    hint: 'Check the URL, or make a repository there: `lifeboat init`.',
  })
}

const identityOf = ({ config, keyCheck }: UnverifiedConfig): RepositoryIdentity => ({
  repository: config.repository,
  encryption: config.encryption,
  keyCheck: hex(keyCheck),
})

function refuseExchanged(found: RepositoryIdentity, pinned: RepositoryIdentity | undefined): void {
  if (!pinned) return
  const same =
    found.repository === pinned.repository &&
    found.encryption === pinned.encryption &&
    found.keyCheck === pinned.keyCheck
  if (same) return
  throw new LifeboatError(
    'corrupt-object',
    `This is not repository ${pinned.repository}, which this host knows by that URL`,
    {
      details: { object: configKey, expected: pinned, found },
      hint: 'Somebody has replaced its config. If you did so yourself, remove what this host remembers of it.',
    },
  )
}

function adoptQuietly(ring: Keyring, domain: DomainId, bytes: Uint8Array): void {
  try {
    ring.adopt(domain, 0, bytes)
  } catch (error) {
    if (!isLifeboatError(error)) throw error
  }
}

function assemble(
  request: OpenRequest,
  config: RepositoryConfig,
  identity: RepositoryIdentity,
  ring: Keyring,
  slot: SlotId | undefined,
): OpenedRepository {
  const { store, pipeline, random, clock, host, recordCache, leaseExpiryMs = limits.leaseExpiryMs } = request
  const keys = ring.repository
  const lock = config.lock && { ...config.lock, since: config.created }
  const control = controlObjects(store, keys, random, { ignoresPlanted: lock !== undefined })
  const records = new RecordReader({ store, keyring: ring, pipeline, random, cache: recordCache })
  const fetcher = new ChunkFetcher(records)
  const reading: ReadContext = { store, keyring: ring, control, records, fetcher, pipeline, clock, random, host, lock }
  return {
    id: config.repository,
    chunkSize: config.chunkSize,
    encryption: config.encryption,
    capabilities: capabilitiesOf(config),
    store,
    identity,
    slot,
    domain: config.domain,
    reading,
    points: options => listPoints({ store, keys, control }, options),
    async manifest({ key, id }, options = {}) {
      const stored = await readStoredManifest({ store, keys }, key, options)
      if (stored) return stored.manifest
      throw new LifeboatError('no-such-point', `Point ${id} is not there any more`, {
        details: { object: key, point: id },
      })
    },
    openPoint: (point, options) => openRecoveryPoint(reading, point, options),
    dropPin: (pinId, options) => control.delete([pinKey(pinId)], options),
    beginPoint: point =>
      beginPoint(
        {
          store,
          pipeline,
          clock,
          random,
          keys,
          keyring: ring,
          records,
          defaultDomain: config.domain,
          chunkSize: config.chunkSize,
          host,
          lock,
          leaseExpiryMs,
          leaseRefreshMs: Math.min(limits.leaseRefreshMs, leaseExpiryMs / 6),
        },
        point,
      ),
    async [Symbol.asyncDispose]() {},
  }
}

const capabilitiesOf = ({ store }: RepositoryConfig): StoreCapabilities => ({
  conditionalPut: store.conditionalPut === true,
  objectLock: store.objectLock === true,
  versioning: store.versioning === true,
})
