/**
 * Every object that is no pack: authenticates, and is of the kind that its name says. What has a name of no kind is named as a
 * stranger, which is no failure: nobody reads it. Packs are read by way of the points that need them.
 */
import { LifeboatError } from '../core/errors.ts'
import { KiB, limits } from '../core/limits.ts'
import { type AbortOptions, forEachLimited } from '../core/scope.ts'
import { parseConfig, verifyConfig } from '../crypto/config-mac.ts'
import { openDomainKeys } from '../crypto/domain-keys.ts'
import { ENVELOPE_OVERHEAD, openEnvelope } from '../crypto/envelope.ts'
import { isVouchedFor, parseKeySlot } from '../crypto/key-slot.ts'
import type { ObjectInfo } from '../storage/object-store.ts'
import { authentic } from './authentic.ts'
import { type ControlKind, getBounded } from './control-object.ts'
import { parseIndex } from './index-codec.ts'
import * as names from './object-keys.ts'
import type { ReadContext } from './recovery-point.ts'
import type { PointSummary } from './repository.ts'
import { readStoredManifest } from './stored-manifest.ts'
import { ProblemLog, type VerifyProblem } from './verify-problems.ts'

export interface VerifiedObjects {
  readonly checked: number
  readonly bytes: number
  readonly problems: readonly VerifyProblem[]
  /** Keys that no object of a repository has; at most a thousand of them. */
  readonly unknown: readonly string[]
}

export interface VerifyObjectsRequest extends AbortOptions {
  /** Manifests that were read already. */
  readonly points: readonly PointSummary[]
  /** How many objects were looked at, or passed over because they are read by way of points. */
  readonly progress?: (looked: number) => void
}

type Check = (options: AbortOptions) => Promise<unknown>

/** Strangers that are named; there may be any number of them. */
const UNKNOWN_NAMED = 1000

export async function verifyObjects(
  context: ReadContext,
  { points, progress, signal }: VerifyObjectsRequest,
): Promise<VerifiedObjects> {
  const problems = new ProblemLog()
  const unknown: string[] = []
  const read = new Set(points.map(({ key }) => key))
  let checked = 0
  let bytes = 0
  let looked = 0
  const check = async ({ key, size }: ObjectInfo, inner: AbortSignal) => {
    if (read.has(key) || names.parsePackKey(key)) return
    if (!checkOf(context, key)) {
      if (unknown.length < UNKNOWN_NAMED) unknown.push(key)
      return
    }
    try {
      const options = { signal: inner }
      // What lies under a version that somebody put over it is there all the same, and told of as such.
      await authentic(context.store, key, async store => checkOf({ ...context, store }, key)?.(options), options)
      checked++
      bytes += size
    } catch (error) {
      inner.throwIfAborted()
      const problem = problems.note(error, key)
      const point = names.parsePointKey(key)?.point
      if (point) problem.points.add(point)
    }
  }
  await forEachLimited(
    context.store.list('', { signal }),
    limits.getsInFlight,
    async (info, inner) => {
      await check(info, inner)
      progress?.(++looked)
    },
    { signal },
  )
  return { checked, bytes, problems: problems.list(), unknown: unknown.sort() }
}

/** Undefined for a name of no kind. An object that is gone since it was listed is none, and so no problem. */
export function checkOf(context: ReadContext, key: string): Check | undefined {
  const { store, keyring, control } = context
  const keys = keyring.repository
  if (key === names.configKey) return options => checkConfig(context, options)
  if (names.parsePointKey(key)) return options => readStoredManifest({ store, keys }, key, options)
  if (names.parseIndexKey(key)) return options => checkIndex(context, key, options)
  if (names.parseSlotKey(key)) return options => checkSlot(context, key, options)
  const domain = names.parseDomainKeysKey(key)
  if (domain)
    return async options => {
      const bytes = await getBounded(store, key, KEY_MAX_BYTES, options)
      if (bytes) openDomainKeys(domain.domain, domain.epoch, keys, bytes)
    }
  const kind = controlKindOf(key)
  return kind && (options => control.get(kind, key, options))
}

const KEY_MAX_BYTES = 64 * KiB

function controlKindOf(key: string): ControlKind | undefined {
  for (const [kind, form] of CONTROL_FORMS) if (form.test(key)) return kind
  if (names.parseAuditKey(key)) return 'audit'
  return names.parsePolicyKey(key) ? 'policy' : undefined
}

const CONTROL_FORMS: readonly (readonly [ControlKind, RegExp])[] = [
  ['lease', /^leases\/[0-9a-f]{16}$/],
  ['pin', /^pins\/[0-9a-f]{16}$/],
  ['hold', /^holds\/[0-9a-f]{16}$/],
  ['forgotten', /^forgotten\/[0-9a-f]{16}$/],
  ['fence', /^fences\/[0-9a-f]{16}\/(?:[0-9a-f]{16}|self)$/],
  ['gc', /^gc\/[0-9a-f]{16}$/],
  ['damaged', /^damaged\/[0-9a-f]{32}$/],
  ['lock-ledger', /^locks\/[0-9a-f]{16}$/],
  ['trace', /^traces\/[A-Za-z0-9_%-]+\/[0-9TZ]{16}-[0-9a-f]{16}$/],
  ['claim', /^claims\/[a-z]+\/[0-9a-f/]+(?:\d+)?-[0-9a-f]{16}$/],
]

async function checkConfig({ store, keyring }: ReadContext, options: AbortOptions): Promise<void> {
  const bytes = await getBounded(store, names.configKey, limits.controlObjectMax, options)
  if (bytes) verifyConfig(parseConfig(bytes), keyring.repository)
}

async function checkIndex({ store, keyring }: ReadContext, key: string, options: AbortOptions): Promise<void> {
  const { repository, metadata } = keyring.repository
  const bytes = await getBounded(store, key, limits.indexObjectMax + ENVELOPE_OVERHEAD, options)
  if (bytes) parseIndex(openEnvelope({ repository, kind: 'index', objectKey: key }, metadata, bytes), key)
}

/** A slot opens only with its own secret; that a holder of the repository key made it shows without. */
async function checkSlot({ store, keyring }: ReadContext, key: string, options: AbortOptions): Promise<void> {
  const bytes = await getBounded(store, key, KEY_MAX_BYTES, options)
  if (!bytes) return
  const slot = parseKeySlot(bytes, key)
  // Those of the first version carry no proof.
  if (slot.mac === undefined || isVouchedFor(slot, keyring.repository)) return
  throw new LifeboatError('corrupt-object', `${key} does not authenticate: it is damaged, or somebody planted it`, {
    details: { object: key },
    hint: '`lifeboat key list` shows the keys; remove this one if nobody needs it.',
  })
}
