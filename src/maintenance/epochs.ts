/**
 * Epochs of data keys (docs/repository-format.md, section 2): what is written from now on is sealed under fresh random keys.
 * What was written before stays under its own, for as long as points refer to it.
 */
import { isIntegrityError, LifeboatError } from '../core/errors.ts'
import { type DomainId, hex } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import { type FullDomainKeys, newDomainKeys, sealDomainKeys } from '../crypto/domain-keys.ts'
import { getBounded } from '../repository/control-object.ts'
import { withData } from '../repository/keyring.ts'
import {
  domainKeysKey,
  epochClaimKey,
  epochClaimsPrefix,
  keysPrefix,
  parseDomainKeysKey,
  parseEpochClaimKey,
} from '../repository/object-keys.ts'
import { listEpochs, newestDomainKeys } from '../repository/write-domain.ts'
import { recordAudit } from './audit.ts'
import type { MaintenanceContext } from './maintenance.ts'
import type { WorkOptions } from './progress.ts'

/** Byte 0 of a pack id. */
const EPOCH_MAX = 255
/** Others at the same number are rare, and each attempt takes a higher one. */
const ATTEMPTS = 4

export interface EpochResult {
  readonly started: readonly { readonly domain: DomainId; readonly epoch: number }[]
  /** Domains whose keys do not authenticate: they were planted, or are damaged. */
  readonly skipped: readonly { readonly domain: DomainId; readonly reason: string }[]
}

/** In every domain of the repository. */
export async function startEpochs(
  context: MaintenanceContext,
  { progress, ...options }: WorkOptions = {},
): Promise<EpochResult> {
  const domains = new Set<DomainId>()
  for await (const { key } of context.store.list(keysPrefix, options)) {
    const parsed = parseDomainKeysKey(key)
    if (parsed) domains.add(parsed.domain)
  }
  const started: { domain: DomainId; epoch: number }[] = []
  const skipped: { domain: DomainId; reason: string }[] = []
  for (const domain of domains)
    try {
      started.push({ domain, epoch: await startEpoch(context, domain, options) })
    } catch (error) {
      if (!isIntegrityError(error)) throw error
      skipped.push({ domain, reason: error.message })
    } finally {
      progress?.('new data keys', started.length + skipped.length, domains.size)
    }
  return { started, skipped }
}

/**
 * Two rotations must never write one name: the second would destroy the keys of what was sealed under the first, and no store is
 * relied upon to refuse it. So each claims a number above all that it sees, in an object of its own, and then looks. Of two that claim one
 * number, the one that looked before the other's claim was stored is seen by the other: at most one finds itself alone,
 * and only that one ever writes the name. A claim goes when its keys are there, which is looked for last; that of a rotation that died stays, and its
 * number is never used.
 */
export async function startEpoch(
  context: MaintenanceContext,
  domain: DomainId,
  options: AbortOptions = {},
): Promise<number> {
  const { store, control, keyring, clock, random, who } = context
  const base = await newestDomainKeys(context, domain, options)
  if (!base) throw new LifeboatError('missing-object', `Domain ${domain} has no keys`, { details: { domain } })
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const epoch =
      1 + Math.max(...(await listEpochs(store, domain, options)), ...(await claimedEpochs(context, domain, options)))
    if (epoch > EPOCH_MAX)
      throw new LifeboatError('usage', `Domain ${domain} has had all ${EPOCH_MAX} epochs that the format knows`, {
        hint: 'A new repository begins anew.',
      })
    const claim = epochClaimKey(domain, epoch, hex(random(8)))
    await control.put('claim', claim, { who, when: clock.now().toISOString() }, options)
    const rivals = (await claimedEpochs(context, domain, options)).filter(claimed => claimed === epoch)
    if (rivals.length !== 1 || (await store.head(domainKeysKey(domain, epoch), options))) {
      // Whoever has lost writes nothing, so that nobody needs to see its claim.
      await control.delete([claim], options)
      continue
    }
    await recordAudit(context, 'key-rotate', { domain, epoch }, options)
    const sealed = sealDomainKeys(
      newDomainKeys(domain, epoch, random, complete(base)),
      withData(keyring.repository),
      random,
    )
    const object = domainKeysKey(domain, epoch)
    await store.put(object, [sealed], options)
    const stored = await getBounded(store, object, limits.controlObjectMax, options)
    if (!stored || Buffer.compare(stored, sealed) !== 0)
      throw new LifeboatError('corrupt-object', `${object} does not read back as it was written`, {
        details: { object },
      })
    keyring.adopt(domain, epoch, sealed)
    await control.delete([claim], options)
    return epoch
  }
  throw new LifeboatError('store-conflict', `Other hosts start epochs of domain ${domain} at this very time`, {
    details: { domain },
    hint: 'One new epoch is enough: see `lifeboat log`, and try again if there is none.',
  })
}

async function claimedEpochs(
  { control }: MaintenanceContext,
  domain: DomainId,
  options: AbortOptions,
): Promise<readonly number[]> {
  const epochs: number[] = []
  for await (const key of control.list('claim', { prefix: epochClaimsPrefix(domain), ...options })) {
    const claim = parseEpochClaimKey(key)
    if (claim) epochs.push(claim.epoch)
  }
  return epochs
}

function complete({
  dataKey,
  chunkIdKey,
  ...keys
}: Partial<FullDomainKeys> & Pick<FullDomainKeys, 'domain' | 'epoch' | 'metadataKey' | 'nodeIdKey'>): FullDomainKeys {
  if (dataKey && chunkIdKey) return { ...keys, dataKey, chunkIdKey }
  throw new LifeboatError('key-missing', `This key gives no right to the data of domain ${keys.domain}`, {
    details: { domain: keys.domain },
    hint: 'Use a key that opens data too.',
  })
}
