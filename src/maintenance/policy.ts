/** Retention policies as the repository keeps them (docs/repository-format.md, section 8): immutable, the newest of a VM counts. */
import { isIntegrityError, LifeboatError } from '../core/errors.ts'
import { hex } from '../core/ids.ts'
import { limits } from '../core/limits.ts'
import type { AbortOptions } from '../core/scope.ts'
import type { JsonFields, JsonObject } from '../repository/json-fields.ts'
import {
  type PolicyKeyParts,
  parsePolicyKey,
  policiesPrefix,
  policyKey,
  policyPrefix,
} from '../repository/object-keys.ts'
import { recordAudit } from './audit.ts'
import type { MaintenanceContext } from './maintenance.ts'
import { isTimeZone } from './periods.ts'
import { KEEP_COUNTS, keepsAnything, type RetentionPolicy } from './retention.ts'

export interface StoredPolicy {
  /** Undefined: the default, for each VM without one of its own. */
  readonly vm?: string
  readonly policy: RetentionPolicy
  readonly who: string
  readonly when: Date
}

type PolicyContext = Pick<MaintenanceContext, 'control'>

/** The policy that counts of each VM that has one, and the default. Throws where one cannot be read: none is not "keep nothing". */
export async function listPolicies(
  { control }: PolicyContext,
  { vm, signal }: { vm?: string } & AbortOptions = {},
): Promise<readonly StoredPolicy[]> {
  const newest = new Map<string | undefined, PolicyKeyParts & { key: string }>()
  const prefixes = vm === undefined ? [policiesPrefix] : [policyPrefix(undefined), policyPrefix(vm)]
  for (const prefix of prefixes)
    for await (const key of control.list('policy', { prefix, signal })) {
      const parts = parsePolicyKey(key)
      const known = parts && newest.get(parts.vm)
      if (parts && (!known || key > known.key)) newest.set(parts.vm, { ...parts, key })
    }
  const found: StoredPolicy[] = []
  for (const { vm: named, key } of newest.values())
    try {
      const fields = await control.get('policy', key, { signal })
      if (fields && !fields.has('unset')) found.push({ vm: named, ...parsePolicy(fields) })
    } catch (error) {
      throw isIntegrityError(error) ? unreadable(key, error) : error
    }
  return found.sort((a, b) => ((a.vm ?? '') < (b.vm ?? '') ? -1 : 1))
}

/** The VM's own policy, else the default. */
export const policyOf = <T extends Pick<StoredPolicy, 'vm'>>(policies: readonly T[], vm: string): T | undefined =>
  policies.find(policy => policy.vm === vm) ?? policies.find(policy => policy.vm === undefined)

/** Replaces the VM's policy, or the default, whole. Throws 'usage' for one that keeps nothing or names no zone. */
export async function setPolicy(
  context: MaintenanceContext,
  vm: string | undefined,
  policy: RetentionPolicy,
  options: AbortOptions = {},
): Promise<StoredPolicy> {
  checkPolicy(policy)
  if (!keepsAnything(policy))
    throw new LifeboatError('usage', 'a policy that keeps nothing is no policy', {
      hint: 'say what it keeps, for example --keep-daily 7 --keep-weekly 4; to remove a VM: `lifeboat prune --vm VM --keep-last 0 --remove-everything`',
    })
  const when = context.clock.now()
  await recordAudit(context, 'policy-set', { ...(vm === undefined ? {} : { vm }), policy }, options)
  await putNewest(context, vm, { ...policy }, options)
  return { vm, policy, who: context.who, when }
}

/** As if the VM, or the others, never had one: the VM goes by the default then, and without a default nothing of it is pruned. */
export async function unsetPolicy(
  context: MaintenanceContext,
  vm: string | undefined,
  options: AbortOptions = {},
): Promise<void> {
  if (!(await listPolicies(context, { vm, ...options })).some(policy => policy.vm === vm))
    throw new LifeboatError(
      'usage',
      vm === undefined ? 'there is no default policy' : `${vm} has no policy of its own`,
      {
        hint: '`lifeboat policy show` lists those that there are',
      },
    )
  await recordAudit(context, 'policy-unset', vm === undefined ? {} : { vm }, options)
  await putNewest(context, vm, { unset: true }, options)
}

async function putNewest(context: MaintenanceContext, vm: string | undefined, what: JsonObject, options: AbortOptions) {
  const { control, clock, random, who } = context
  const now = clock.now()
  const key = policyKey(vm, await after(context, vm, now, options), hex(random(8)))
  await control.put('policy', key, { ...what, who, when: now.toISOString() }, options)
}

/** A time for the key above all that are there, whatever this host's clock says: the greatest key counts. */
async function after({ control }: PolicyContext, vm: string | undefined, now: Date, options: AbortOptions) {
  let latest = 0
  for await (const key of control.list('policy', { prefix: policyPrefix(vm), ...options }))
    latest = Math.max(latest, parsePolicyKey(key)?.when.getTime() ?? 0)
  return new Date(Math.max(now.getTime(), latest + 1000))
}

export function checkPolicy({ timeZone }: RetentionPolicy): void {
  if (timeZone !== undefined && !isTimeZone(timeZone))
    throw new LifeboatError('usage', `'${timeZone.slice(0, 80)}' is no time zone that this host knows`, {
      hint: 'write an IANA name, for example Europe/Berlin or UTC',
    })
}

function parsePolicy(fields: JsonFields): Omit<StoredPolicy, 'vm'> {
  const counts = KEEP_COUNTS.filter(count => fields.has(count)).map(count => [
    count,
    fields.count(count, limits.keepCountMax),
  ])
  // Not that of the host which asks: every host applies the same.
  const timeZone = fields.has('timeZone') ? fields.text('timeZone', 64) : 'UTC'
  const policy: RetentionPolicy = { ...Object.fromEntries(counts), timeZone }
  checkPolicy(policy)
  return { policy, who: fields.text('who'), when: fields.date('when') }
}

const unreadable = (object: string, cause: LifeboatError): LifeboatError =>
  new LifeboatError(cause.code, `${object} cannot be read: what it keeps is not known`, {
    details: { object },
    hint: 'Set the policy anew with `lifeboat policy set`: the newest counts. Nothing was forgotten.',
    cause,
  })
