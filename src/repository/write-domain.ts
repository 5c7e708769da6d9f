/**
 * Where the next point of a VM goes: its domain, and the newest epoch of that domain (docs/repository-format.md, section 2).
 * A VM stays in the domain in which it began; one of its own is chosen with its first backup.
 */
import { isIntegrityError, LifeboatError } from '../core/errors.ts'
import { type DomainId, domainId, hex, type PointId } from '../core/ids.ts'
import type { AbortOptions } from '../core/scope.ts'
import { newDomainKeys, sealDomainKeys } from '../crypto/domain-keys.ts'
import type { DomainKeys } from '../crypto/keys.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import { checkBase } from './base-points.ts'
import type { ControlObjects } from './control-object.ts'
import { type Keyring, withData } from './keyring.ts'
import { domainKeysKey, domainPrefix, parseDomainKeysKey } from './object-keys.ts'
import { readStoredManifest } from './stored-manifest.ts'
import type { WriteContext } from './write-context.ts'

/** What is known before the domain is. */
export interface DomainlessContext extends Omit<WriteContext, 'domain'> {
  readonly defaultDomain: DomainId
}

interface DomainRequest extends AbortOptions {
  readonly vm: string
  /** Asked for by a person; only a VM without points can get one. */
  readonly ownDomain: boolean
  /** Manifest keys of the VM's points, oldest first. */
  readonly keys: ReadonlyMap<PointId, string>
}

/** To be called when the lease is stored, so that whoever destroys keys waits for this writer or is seen by it. */
export async function writeDomain(
  context: DomainlessContext,
  control: ControlObjects,
  request: DomainRequest,
): Promise<DomainKeys> {
  const { defaultDomain, keyring } = context
  const { signal } = request
  const domain = await chosenDomain(context, control, request)
  const keys = domain && (await newestDomainKeys(context, domain, { signal }))
  if (keys) return keys
  // Throws: what names the missing object is the error that the person needs.
  if (domain === defaultDomain) return keyring.domainKeys(defaultDomain, 0, { signal })
  return ownDomain(context, { signal })
}

/**
 * That of the VM's newest manifest, whatever became of its point: a VM once apart stays apart. Undefined: a fresh one of its own,
 * also where the keys of the former one were destroyed.
 */
async function chosenDomain(
  context: DomainlessContext,
  control: ControlObjects,
  { vm, ownDomain, keys, signal }: DomainRequest,
): Promise<DomainId | undefined> {
  const { defaultDomain } = context
  let newest: DomainId | undefined
  for (const [point, key] of [...keys].reverse())
    try {
      const stored = await readStoredManifest(context, key, { signal })
      newest ??= stored?.manifest.domain
      if (newest !== undefined && (newest !== defaultDomain || !ownDomain)) return newest
      if (stored && (await checkBase(context, control, point, key, { signal }))) throw notFirst(vm)
    } catch (error) {
      // A damaged manifest must not stop all later backups; verify reports it.
      if (!isIntegrityError(error)) throw error
    }
  return ownDomain ? undefined : defaultDomain
}

const notFirst = (vm: string): LifeboatError =>
  new LifeboatError('usage', `${vm} has points that share their keys with other VMs`, {
    hint: 'Only a first backup can begin a domain of its own: back the VM up under another name, and forget the points of this one when you need them no more.',
  })

export async function listEpochs(
  store: ObjectStore,
  domain: DomainId,
  options: AbortOptions = {},
): Promise<readonly number[]> {
  const epochs: number[] = []
  for await (const { key } of store.list(domainPrefix(domain), options)) {
    const parsed = parseDomainKeysKey(key)
    if (parsed) epochs.push(parsed.epoch)
  }
  return epochs.sort((a, b) => a - b)
}

/**
 * Undefined where the domain has none. One that does not authenticate is passed over for the one before: it can be no
 * rotation's, and nobody who can damage it can read what is sealed instead.
 */
export async function newestDomainKeys(
  { store, keyring }: { readonly store: ObjectStore; readonly keyring: Keyring },
  domain: DomainId,
  options: AbortOptions = {},
): Promise<DomainKeys | undefined> {
  let damage: unknown
  for (const epoch of (await listEpochs(store, domain, options)).toReversed())
    try {
      return await keyring.domainKeys(domain, epoch, options)
    } catch (error) {
      if (!isIntegrityError(error)) throw error
      damage ??= error
    }
  if (damage) throw damage
  return undefined
}

/** Its id is random, so that nobody else writes these keys. */
async function ownDomain({ store, keyring, random }: DomainlessContext, options: AbortOptions): Promise<DomainKeys> {
  const keys = newDomainKeys(domainId(hex(random(8))), 0, random)
  const sealed = sealDomainKeys(keys, withData(keyring.repository), random)
  await store.put(domainKeysKey(keys.domain, 0), [sealed], options)
  keyring.adopt(keys.domain, 0, sealed)
  return keys
}
